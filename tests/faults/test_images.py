"Images that would be seen wrongly, and images that must not be opened."
import io
import os
import struct
import numpy as np
import pytest
from PIL import Image
from rl4vlm.images import RowError, as_image, image_size, open_image

BOARD = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def saved(image, kind="PNG", **options):
    "An image as the bytes of a file."
    buffer = io.BytesIO(); image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_camera_on_its_side(kind, orientation):
    "As `datasets` decodes it, and as its header says."
    from datasets import Image as Feature
    exif = Image.Exif(); exif[0x0112] = orientation
    image = np.zeros((16, 32, 3), np.uint8); image[:8, :16] = 250
    data = saved(Image.fromarray(image), kind, exif=exif,
                 **({} if kind == "JPEG" else dict(lossless=True) if kind == "WEBP" else {}))
    seen = np.asarray(open_image(data))
    assert np.array_equal(seen, np.asarray(Feature().decode_example(dict(bytes=data, path=None)).convert("RGB")))
    assert seen.shape == ((32, 16, 3) if orientation > 4 else (16, 32, 3)) and image_size(data) == seen.shape[:2]
    corner = dict(zip(range(1, 9),
                      [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)]))[orientation]
    assert seen[corner].min() > 240                                            # where the bright corner went


GREY = BOARD[..., 0]
SAME = {"16-bit": Image.fromarray(GREY.astype(np.uint16) * 257),
        "grey": Image.fromarray(GREY), "palette": Image.fromarray(GREY).convert("P"),
        "grey and opaque": Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA")}


@pytest.mark.parametrize("name", SAME)
def test_grey_files(name): assert np.array_equal(np.asarray(open_image(saved(SAME[name]))), np.dstack([GREY] * 3))


def test_a_palette_in_colour_and_with_a_hole():
    few = Image.fromarray(BOARD // 128 * 255)
    assert np.array_equal(np.asarray(open_image(saved(few.quantize(8)))), np.asarray(few))
    index = np.zeros((4, 4), np.uint8); index[0, 0] = 1
    image = Image.fromarray(index, "P"); image.putpalette([10, 20, 30, 200, 0, 0] + [0] * 762)
    seen = np.asarray(open_image(saved(image, transparency=0)))
    # the hole is white, not the colour behind it
    assert seen[0, 0].tolist() == [200, 0, 0] and seen[1, 1].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    seen = np.asarray(open_image(saved(image.convert(mode))))
    assert seen[0, 0].tolist() == [0] * 3 and seen[0, 1].tolist() == [127] * 3 and seen[2, 2].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "I;16"])
def test_a_colour_that_stands_for_transparent(mode):
    image = (Image.fromarray(np.array([[0, 60000]], np.uint16)) if mode == "I;16"
             else Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode))
    seen = np.asarray(open_image(saved(image, transparency=(0, 0, 0) if mode == "RGB" else 0)))
    assert seen[0, 0].tolist() == [255] * 3 and seen[0, 1].min() > 230


def test_cmyk():
    smooth = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    seen = np.asarray(open_image(saved(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95)))
    assert np.abs(seen.astype(int) - smooth).max() < 8


@pytest.mark.parametrize("array, wanted", [
    (BOARD, BOARD), (GREY, np.dstack([GREY] * 3)), (GREY[..., None], np.dstack([GREY] * 3)), (BOARD / 255, BOARD),
    ((BOARD / 255).astype(np.float32), BOARD), (BOARD.astype(np.int64), BOARD),
    (BOARD.astype(np.uint16) * 257, BOARD), (BOARD.astype(">u2") * 257, BOARD),
    (GREY > 100, np.dstack([(GREY > 100) * 255] * 3)), (np.dstack([BOARD, np.full_like(GREY, 255)]), BOARD),
    (np.dstack([BOARD, np.zeros_like(GREY)]), np.full_like(BOARD, 255)),
    (np.dstack([BOARD, np.zeros_like(GREY)]) / 255, np.full_like(BOARD, 255)), (BOARD[::-1, ::2], BOARD[::-1, ::2]),
    (np.asfortranarray(BOARD), BOARD), (BOARD[:1], BOARD[:1]), (BOARD[:, :1], BOARD[:, :1])])
def test_arrays(array, wanted):
    seen = as_image(array)
    assert seen.dtype == np.uint8 and np.array_equal(seen, wanted)


def test_a_dark_frame_means_what_a_bright_one_means():
    "The kind of number decides, not its size: no guess by the largest value."
    assert as_image(np.full((2, 2, 3), 1, np.int64)).max() == 1
    assert as_image(np.full((2, 2, 3), 1, np.uint16)).max() == 0
    for wrong in (BOARD.astype(np.float32), BOARD.astype(np.int32) * 300, BOARD.astype(int) - 1,
                  np.full((2, 2), np.inf), np.full((2, 2), 1j), np.zeros((0, 2, 3), np.uint8),
                  np.zeros((2, 2, 2, 3), np.uint8)):
        with pytest.raises(RowError): as_image(wrong)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next"])
def test_low_images_are_not_read_as_channels_first(family, tmp_path_factory):
    ("Heights of 1, 3 and 4: two images that differ give values that differ, and each gives those of its PIL image, "
     "which states its layout itself.")
    from rl4vlm.models import load_vlm
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.tiny import build_tiny
    policy = VLMPolicy(*load_vlm(str(build_tiny(tmp_path_factory.mktemp(family), family, ["Which?"] * 3)),
                                 device="cpu"))
    messages = [dict(role="user", content=[dict(type="image"), dict(type="text", text="Which?")])]
    for height in (1, 3, 4):
        one, other = np.zeros((height, 60, 3), np.uint8), np.zeros((height, 60, 3), np.uint8)
        one[:, :20], other[:, 40:] = 250, 250
        ours = [policy.encode(messages, [i]) for i in (one, other)]
        values = [policy.pixels(p.images[0], p.keys[0])["pixel_values"] for p in ours]
        assert not np.array_equal(*values)
        for image, prompt, value in zip((one, other), ours, values):
            theirs = policy.processor(text=[policy._chat_text(messages)], images=[Image.fromarray(image)],
                                      return_tensors="pt")
            assert theirs["input_ids"][0].tolist()[-len(prompt):] == prompt.ids.tolist()
            assert np.array_equal(theirs["pixel_values"].reshape(-1), value.reshape(-1))
    a, b = (policy.encode(messages, [i]) for i in (BOARD / 255, Image.fromarray(BOARD)))
    assert a.keys == b.keys and np.array_equal(a.ids, b.ids)                   # anything that `as_image` takes


@pytest.mark.parametrize("render, wanted",
                         [(lambda: GREY / 255, np.dstack([GREY] * 3)), (lambda: GREY[..., None], np.dstack([GREY] * 3)),
                          (lambda: Image.fromarray(BOARD).convert("RGBA"), BOARD), (lambda: BOARD[:4], BOARD[:4])])
def test_what_a_task_shows(render, wanted):
    from rl4vlm.tasks import make_task
    class Shown(type(make_task("NumberLine"))):
        def image(self, observation, info, env): return render()
    task = Shown(); env = task.make_env()
    [image] = task.frame(*env.reset(seed=0), env).images
    assert np.array_equal(image, wanted) and image.dtype == np.uint8


def test_a_row_a_labeller_and_a_page_see_the_same():
    import base64
    from rl4vlm.labellers import data_url
    from rl4vlm.report import shrink
    from rl4vlm.sft import split_row
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    row = dict(messages=[dict(role="user", content=[dict(type="image")]), dict(role="assistant", content="a")],
               images=[clear])
    sent = base64.b64decode(data_url(clear).split(",")[1])
    page = base64.b64decode(shrink(saved(clear)).split(",")[1])
    for seen in (split_row(row)[1][0], np.asarray(Image.open(io.BytesIO(sent))),
                 np.asarray(Image.open(io.BytesIO(page)).convert("RGB"))):
        assert seen.min() == 255


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/rl4vlm_eps_ran) (w) file closefile showpage\n"
BOMB = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("data, kind", [(EPS, "corrupt image"), (BOMB, "huge image"),
                                        (saved(Image.fromarray(BOARD))[:80], "corrupt image"), (b"", "corrupt image"),
                                        (b"GIF89a" + b"\xff" * 20, "corrupt image")])
def test_what_is_not_opened(data, kind):
    from rl4vlm.report import shrink
    with pytest.raises(RowError) as error: open_image(data, "x.png")
    assert error.value.kind in (kind, "huge image") and "\n" not in str(error.value)
    assert shrink(data) == "" and not os.path.exists("/tmp/rl4vlm_eps_ran")
