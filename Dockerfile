# docker build -t maxentflow . && docker run --rm -v "$PWD/runs:/work/runs" maxentflow
FROM python:3.11-slim

# A C++ compiler for the compiled update, and EGL for pictures without a screen.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libegl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/maxentflow
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable ".[all]"

WORKDIR /work
ENTRYPOINT ["maxentflow"]
CMD ["train", "meow", "--env", "maxentflow/MultiGoal-v0", "--paper"]
