# A machine on which ./scripts/quickstart and ./scripts/test run:  docker build -t rl4vlm . && docker run --rm -it rl4vlm
# For a GPU, take an image with CUDA and Python 3.11 or 3.12 as the first line and add --gpus all.
FROM python:3.11-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git g++ make chromium chromium-driver fonts-dejavu-core pandoc && rm -rf /var/lib/apt/lists/*
WORKDIR /rl4vlm
COPY . .
RUN bash -c '. scripts/setup.sh && setup_python dev'
ENV PATH="/rl4vlm/.venv/bin:$PATH"
CMD ["./scripts/quickstart"]
