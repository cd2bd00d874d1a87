# docker build -t lora-playground .
# docker run -p 7860:7860 -v lora-home:/home/app/runs lora-playground      with GPUs: --gpus all
#
# torch comes from pip's own index, whose Linux build holds the CUDA libraries; it runs on a CPU as well. A smaller image for CPUs
# alone: --build-arg TORCH_INDEX=URL with the index of CPU wheels that pytorch.org's "Get started" names.
FROM python:3.11-slim

ARG TORCH_INDEX=""

RUN useradd --create-home --uid 1000 app
WORKDIR /home/app/playground
COPY requirements.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt
COPY --chown=app:app . .

USER app
RUN mkdir -p /home/app/runs
ENV LORA_PLAYGROUND_HOME=/home/app/runs \
    HF_HOME=/home/app/runs/hub \
    GRADIO_SERVER_NAME=0.0.0.0 \
    PYTHONUNBUFFERED=1
VOLUME /home/app/runs
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/live', timeout=4)"
CMD ["python", "app.py"]
