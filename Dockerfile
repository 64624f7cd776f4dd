# Not built by a test here. An image for CPUs with the command `idr`:
#
#   docker build -t idr .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" idr demo --peek
#
# Results go to the mounted folder. `--build-arg TORCH_INDEX_URL=...` chooses a smaller build of torch, without CUDA.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX_URL
COPY constraints.txt /
RUN pip install --no-cache-dir -c /constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
    'torch>=2.6' 'torchvision>=0.21'
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir -c /constraints.txt "$(echo /wheels/*.whl)[photos]" \
    && useradd --create-home idr && mkdir /work && chown idr /work
USER idr
# For users that `docker run --user` names and that have no home.
ENV NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /work
ENTRYPOINT ["idr"]
CMD ["--help"]
