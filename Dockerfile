# The site in one image. Build: make image. Run: docker run --read-only --tmpfs /tmp -p 8501:8501 shadow-price
FROM python:3.12.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# the image may run on another kind of processor than the one that built it
ENV NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=

WORKDIR /srv/shadow-price
COPY requirements.txt .
RUN pip install -r requirements.txt

COPY . .
# compiled once, here, at the path where the source will lie; a start copies the kernels to where it may write
RUN NUMBA_CACHE_DIR=/srv/kernels python -m ui.warm && python -m compileall -q . && chmod -R a+rX,go-w /srv
RUN useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin site
USER site

ENV SHADOW_PRICE_KERNELS=/srv/kernels PORT=8501
# without a name for itself the server would ask a host outside for its address when it starts
ENV STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_HEADLESS=true STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
EXPOSE 8501
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "deploy/healthy.py"]
CMD ["sh", "-c", "exec python -m streamlit run app.py --server.port \"$PORT\""]
