# What the images of simulators are made from. Build them from the repository's root, once:
#   docker build -f simulators/base.Dockerfile --target run -t ppx-run .          what a compiled simulator needs to run
#   docker build -f simulators/base.Dockerfile --target python -t ppx-python .    the same with Python and ppx_client
#   docker build -f simulators/base.Dockerfile --target build -t ppx-build .      what compiles a simulator
FROM debian:bookworm-slim AS run
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        libzmq5 libgfortran5 libgsl27 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system simulator
USER simulator
WORKDIR /simulator
# Inside a container the loopback default would be unreachable.
ENV PPX_BIND=tcp://0.0.0.0:5555
EXPOSE 5555
# Healthy is what answers a connection as ZeroMQ does: its greeting begins with the byte ff.
HEALTHCHECK --interval=2s --timeout=2s --retries=15 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/${PPX_BIND##*:} && [ $(head -c 1 <&3 | od -An -tx1) = ff ]"]

FROM run AS python
USER root
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ppx
ENV PATH=/opt/ppx/bin:$PATH PYTHONUNBUFFERED=1
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt numpy scipy pyzmq
COPY simulators/python /opt/ppx/lib/python3.11/site-packages
USER simulator

FROM debian:bookworm-slim AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        g++ gfortran cmake make libzmq3-dev cppzmq-dev libflatbuffers-dev flatbuffers-compiler libboost-dev libgsl-dev
WORKDIR /ppx
COPY ppx_server/protocol/schema ppx_server/protocol/schema
COPY simulators/cpp simulators/cpp
COPY simulators/c simulators/c
COPY simulators/fortran simulators/fortran
RUN flatc --cpp -o /usr/local/include ppx_server/protocol/schema/ppx.fbs \
    && cp -r simulators/cpp/include/. /usr/local/include \
    && cmake -S simulators/c -B /tmp/ppx_c -DCMAKE_PREFIX_PATH=/ppx/simulators/cpp \
    && cmake --build /tmp/ppx_c && cmake --install /tmp/ppx_c && ldconfig
WORKDIR /simulator
