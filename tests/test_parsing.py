"""Parsing: whatever a model writes, `parse_action` answers, and never with a guess."""
import itertools
import json
import random
import string
import pytest
from hypothesis import given, settings, strategies as st
from rl4vlm.parsing import CAUSES, MAX_LENGTH, Parsed, parse_action

SIGNS = ["-", "+"]
CARDS = [str(i) for i in range(1, 11)] + ["+", "-", "*", "/", "(", ")", "="]
HOUSE = [f"go to shelf {i}" for i in range(1, 25)] + ["look", "take mug 1 from shelf 1", "take mug 1 from shelf 10"]
COMPASS = ["north", "south", "move north", "Move"]
ACTIONS = [SIGNS, CARDS, HOUSE, COMPASS, ["{", "}", '"', "\\", ":", ","], ["action", "thoughts"],
           ["北", "straße", "it's", "\ud800"], []]

def check(text, actions, **options):
    "Parse, and hold the answer against everything that is true of all answers."
    parsed = parse_action(text, actions, **options)
    assert isinstance(parsed, Parsed) and isinstance(parsed.fields, dict)
    if parsed.action is None: assert parsed.cause in CAUSES and parsed.span is None
    else:
        assert parsed.action in actions and parsed.cause is None
        start, end = parsed.span
        assert 0 <= start < end <= len(text)
    if parsed.cause == "cut": assert options.get("cut")
    assert (parsed.cause == "empty") == (not text.strip())
    return parsed

# ---- random texts ----

pieces = st.sampled_from(["{", "}", "[", "]", '"', "'", "“", "”", "\\", ":", ",", " ", "\n", "```",
                          "```json\n", '"action"', "'action'", "action", '"thoughts": "',
                          '"action": "', '": "', '", ', "+", "-", "1", "10", "shelf 1", "go to shelf 10", "north",
                          "null", "[1, ", "\x00", "\ud800", "\\u00e9", "\\ud83d"])
texts = st.one_of(st.text(st.characters(exclude_categories=[]), max_size=60),
                  st.lists(pieces, max_size=25).map("".join))

@settings(max_examples=800, deadline=None)
@given(texts, st.sampled_from(ACTIONS), st.booleans(), st.sampled_from(["action", "", 'a"', "thoughts"]))
def test_any_text_gets_an_answer(text, actions, cut, key):
    check(text, actions, cut=cut, key=key)

@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from([SIGNS, CARDS, HOUSE, COMPASS]))
def test_the_span_holds_the_action(text, actions):
    parsed = check(text, actions)
    if parsed.action is not None:
        stated = text[slice(*parsed.span)].casefold()
        assert all(word in stated for word in parsed.action.casefold().split())

# ---- round trips ----

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s.strip())
plain_values = st.recursive(st.none() | st.booleans() | st.integers()
                            | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
                            lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3),
                            max_leaves=8)
other_fields = st.dictionaries(st.text(max_size=12).filter(lambda k: k != "action"), plain_values, max_size=5)
around = st.sampled_from([("", ""), ("```json\n", "\n```"), ("So I say: ", ""), ("", "\n"),
                          ("Not {that} but ", " I am sure."), ("[", "]")])

@settings(max_examples=300, deadline=None)
@given(other_fields, other_fields, st.lists(names, min_size=1, max_size=5, unique=True), around, st.booleans(),
       st.sampled_from([None, 2]), st.data())
def test_round_trip(before, after, actions, around, ascii_only, indent, data):
    "Whatever the fields and names are, what is written as JSON is read back, and its span is the field's."
    action = data.draw(st.sampled_from(actions))
    after = {k: v for k, v in after.items() if k not in before}
    answer = json.dumps({**before, "action": action, **after}, ensure_ascii=ascii_only, indent=indent)
    text = answer.join(around)
    parsed = check(text, actions)
    assert (parsed.action, parsed.fields) == (action, {**before, **after})
    start, end = parsed.span
    field = '"action": ' + json.dumps(action, ensure_ascii=ascii_only)
    assert text.startswith(field, start)
    # ends with the field and its brace
    head = json.dumps({**before, "action": action}, ensure_ascii=ascii_only, indent=indent)
    assert start == len(around[0]) + head.rindex(field)
    if after or around[1].strip(" \n`]"): assert end == start + len(field)
    else: assert end == len(text)

@settings(max_examples=300, deadline=None)
@given(other_fields, st.sampled_from(HOUSE))
def test_python_style(fields, action):
    "The way Python prints a dictionary, where the syntax allows to tell quotes from apostrophes."
    fields = {k: v for k, v in fields.items() if isinstance(v, (int, bool, type(None))) and k.isidentifier()
              and k.isascii()}
    parsed = check(repr({**fields, "action": action}), HOUSE)
    assert (parsed.action, parsed.fields) == (action, fields)

@settings(max_examples=300, deadline=None)
@given(other_fields, st.sampled_from(HOUSE), st.data())
def test_cut_anywhere_is_never_another_action(fields, action, data):
    "A prefix of an answer gives the action or none, never a different one."
    text = json.dumps({**{f"x{k}": "" for k in fields}, "thoughts": "shelf", "action": action})
    beginning = text[:data.draw(st.integers(0, len(text)))]
    for cut in (True, False): assert check(beginning, HOUSE, cut=cut).action in (action, None)
    complete = text.rindex('"') + 1
    assert check(beginning, HOUSE, cut=True).action == (action if len(beginning) >= complete else None)

# ---- matching ----

@pytest.mark.parametrize("text", ["{}", '{{"action": "{}"}}', 'I choose "{}" now', "{{action: {}}}",
                                  "{{'action': '{}',}}", '{{"action": "I {} now"}}', '"action": "{}"'])
@pytest.mark.parametrize("actions", [HOUSE, [str(i) for i in range(1, 11)], ["north", "move north", "move north now"]])
def test_the_longest_name_wins(text, actions):
    for action, shuffled in itertools.product(actions, (actions, actions[::-1])):
        if action == "move north" and " now" in text: continue
        said = text.replace("{{", "{").replace("}}", "}").replace("{}", action) if text != "{}" else action
        assert check(said, shuffled).action == action

@pytest.mark.parametrize("text, actions, action", [
    ('{"action": "NORTH."}', COMPASS, "north"),
    ('{"action": " move   North "}', COMPASS, "move north"), ('{"action": "move"}', COMPASS, "Move"),
    ('{"action": 10}', CARDS, "10"), ('{"action": ["10"]}', CARDS, "10"),
    ('{"action": true}', ["true", "false"], "true"), ('{"action": None}', ["none"], "none"),
    ('{"action": (}', CARDS, "("), ('{"action": "="}', CARDS, "="),
    ('{"action": "a"}', ["A", "a"], "a"), ("The answer is +", SIGNS, "+"), ("'-'", SIGNS, "-"),
    ("10", CARDS, "10"), ("go to shelf 10 and look at it", HOUSE[:24], "go to shelf 10"),
    ('{"action": "-", "action": "+"}', SIGNS, "+"),
    ('{"action": "+"} {"action": "-', SIGNS, "+"),
    ('{"action": "-"} {"action": "+"} {"x": 1', SIGNS, "+"), ('{"action": 10}', ["10.", "10"], "10"),
    ('{"action": "\\u002b"}', SIGNS, "+"), ('{"\\u0061ction": "+"}', SIGNS, "+"), ('{"action"\n:\n"+"}', SIGNS, "+"),
])
def test_matches(text, actions, action): assert check(text, actions).action == action

@pytest.mark.parametrize("text, actions, cause", [
    ("", SIGNS, "empty"), (" \n\t", SIGNS, "empty"), ("2-1", SIGNS, "no_json"), ("1.5", CARDS, "no_json"),
    ("northern north-east", COMPASS, "no_json"), ("go to shelf 100", HOUSE, "no_json"),
    ("{", SIGNS, "no_json"), ("{}", SIGNS, "no_action"), ('{"thoughts": "+"}', SIGNS, "no_action"),
    ('{"thoughts": "+"} so +', SIGNS, "no_action"), ('{"a": {"action": "+"}}', SIGNS, "no_action"),
    ('{"a": {"action": "+"}, "thou', SIGNS, "no_action"),
    ('{"thoughts": "so "+" it is"}', SIGNS, "no_action"), ('{"Action": "+"}', SIGNS, "no_action"),
    ('{"action": ""}', SIGNS, "unknown_action"), ('{"action": "shelf"}', HOUSE, "unknown_action"),
    ('{"action": {"+": 1}}', SIGNS, "unknown_action"), ('{"action": []}', SIGNS, "unknown_action"),
    ('{"action": 10.0}', CARDS, "unknown_action"),
    ('{"action": "100"}', CARDS, "unknown_action"), ('{"action": "+"}', [], "unknown_action"),
    ("+ -", SIGNS, "ambiguous"), ("+ + -", SIGNS, "ambiguous"),
    ('{"action": "+ or -"}', SIGNS, "ambiguous"), ('{"action": ["+", "-"]}', SIGNS, "ambiguous"),
    ('{"action": "go to shelf 1', HOUSE, "ambiguous"), ('"action": "+", or else "action": "-"', SIGNS, "ambiguous"),
    ('{"action": "A."}', ["a", "A"], "ambiguous"),
])
def test_causes(text, actions, cause): assert check(text, actions).cause == cause

@pytest.mark.parametrize("text", ["I think", "I take +", '{"thoughts": "+', '{"thoughts": "", "act', '{"action":',
                                  '{"action": "+', '{"action": +', '{"x": 1} And now {"act'])
def test_nothing_is_read_across_the_token_limit(text): assert check(text, SIGNS, cut=True).cause == "cut"

@pytest.mark.parametrize("text, cause", [("", "empty"), ('{"x": 1}', "no_action"), ('{"x": 1}\n```', "no_action"),
                                         ('{"action": "*", "thou', "unknown_action")])
def test_a_cut_is_no_excuse(text, cause): assert check(text, SIGNS, cut=True).cause == cause

def test_fields_are_kept():
    assert check('{"x": 1, "action": "+", "y": [2]}', SIGNS).fields == {"x": 1, "y": [2]}
    assert check('{"x": 1, "action": "*"}', SIGNS).fields == {"x": 1, "action": "*"}
    assert check('{"x": 1, "thoughts": "so', SIGNS, cut=True).fields == {"x": 1, "thoughts": "so"}
    assert check("+", SIGNS).fields == {}
    # the real object begins inside a broken one
    assert check('{"quoting": "this {"x": 1, "action": "+"}', SIGNS).fields == {"x": 1}

def test_another_key():
    assert check('{"action": "-", "move": "+"}', SIGNS, key="move").action == "+"
    assert check('{"action": "-"', SIGNS, key="a.*").cause == "no_action"

# ---- what a collapsed or hostile policy writes ----

UNITS = ["{", "}", '"', "'", "“", "”", "\\", '{"', "{'", "{“", '{"a":', '{"a":!', '{"":[', "{a:“", "{a:'", "[", "{}",
         '{"":1}', "1,", '"action":', "\"action\":'", '"action":"+",', "action:",
         "{action:", "a ", "- ", "go to ", "go to shelf 1 ", "!", "\x00", "\ud800", '\\"', "' ", "',", " ", "\n", "{ ",
         "'action':[", '{"a":{"b":1},', "9", "\\u00e9", "\\ud83d", "，", "\u2028"]

@pytest.mark.parametrize("unit", UNITS)
def test_ten_thousand_of_the_same(unit):
    for before, after in itertools.product(["", '{"a":', "{a:[", '{"action": "', '{"action": '], ["", '"}', "!", "}"]):
        for cut in (True, False): check(before + unit * (10_000 // len(unit)) + after, HOUSE + SIGNS, cut=cut)

@pytest.mark.parametrize("unit", UNITS)
def test_an_answer_after_rubbish_is_found_or_missed_but_not_changed(unit):
    assert check(unit * 2000 + '\n"}\'}\n{"thoughts": "", "action": "look"}',
                 HOUSE[:25] + ["-"]).action in ("look", None)

@pytest.mark.parametrize("unit", ["{ ", "x", "}", "\\frac{1}{2} ", '{"a": 1} ', "\x00"])
def test_an_answer_after_rubbish_is_found(unit):
    parsed = check(unit * 2000 + '{"thoughts": "", "action": "look"}', HOUSE)
    assert (parsed.action, parsed.fields) == ("look", {"thoughts": ""})

def test_megabytes():
    answer = '{"thoughts": "", "action": "+"}'
    text = "so " * 1_000_000 + answer
    parsed = check(text, SIGNS)
    assert text[slice(*parsed.span)] == '"action": "+"}'
    assert check(answer + " so" * 1_000_000, SIGNS).cause == "no_json"       # farther from the end than is read
    assert check(answer + " " * (MAX_LENGTH - len(answer)), SIGNS).action == "+"
    mention = "so " * 1_000_000 + "+"
    assert check(mention, SIGNS).span == (len(mention) - 1, len(mention))
    for unit in UNITS: check(unit * (1_000_000 // len(unit)), SIGNS)

@pytest.mark.parametrize("long", ["x" * MAX_LENGTH, "1, " * 3000, "{:" * 3000])
def test_an_object_inside_one_that_is_too_long_is_not_the_answer(long):
    for inner in ('{"action": "-"}', '{"action": "-"}, "x": 1', '[{"action": "-"}]'):
        for end in (', "action": "+"}', ', "thoughts": "', "}", ""):
            assert check(json.dumps({"thoughts": long})[:-1] + f', "plan": {inner}{end}', SIGNS).action != "-"
    thought = json.dumps({"thoughts": f"{long} not {{'action': '-'}}!", "action": "+"})
    assert check(thought, SIGNS).action != "-"

def test_numbers_that_python_refuses():
    for number in ("9" * 10_000, "-" + "9" * 5000, "1e99999", "1." + "0" * 9000, "0x", "1_0", "٣"):
        assert check(f'{{"x": {number}, "action": "+"}}', SIGNS).action == "+"
        assert check(f'{{"action": {number}}}', SIGNS).cause == "unknown_action"

@pytest.mark.parametrize("bracket", ['{"a":', "["])
def test_deep_nesting(bracket):
    close = {"[": "]", "{": "}"}[bracket[0]]
    for depth in (10, 40, 60, 200, 9000):     # an inner object never counts, however deep the outer one is
        text = '{"x": ' + bracket * depth + '{"action": "-"}' + close * depth + ', "action": "+"}'
        parsed = check(text, SIGNS)
        assert parsed.action == "+" or depth == 9000 and parsed.action is None
        if depth <= 200: assert list(parsed.fields) == ["x"] and text[slice(*parsed.span)] == '"action": "+"}'

def test_random_rubbish():
    "Ten thousand texts of mixed fragments, the same in every run."
    draw = random.Random(0)
    fragments = UNITS + list(string.printable) + ['{"thoughts": "', '", "action": "', '"}', "+", "-", "north",
                                                  "move north", "```json\n", "```", "go to shelf 10", "10"]
    for i in range(10_000):
        text = "".join(draw.choices(fragments, k=draw.randrange(40)))
        check(text, ACTIONS[i % len(ACTIONS)], cut=i % 3 == 0)
