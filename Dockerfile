# The operator's and the trainer's image:
#
#   buildah bud --target operator -t operator .
#   buildah bud --target trainer  -t trainer  .
#
# Every Python package is one of requirements.lock, checked against its hashes. Behind a certificate authority of your
# own, mount its bundle and name it: --volume /etc/ssl/certs/ca-certificates.crt:/run/ca.pem:ro
# --build-arg PIP_CERT=/run/ca.pem --build-arg SSL_CERT_FILE=/run/ca.pem

ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim


FROM ${BASE_IMAGE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nonroot
# The root file system may be read-only: only /tmp is written to.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1


# uv as it is in the lock, and a list of what each image needs, apart and without a date: neither a fresh clone nor an
# edit of pyproject.toml that leaves an image's list alone makes its layer again.
FROM python AS tools
ARG PIP_CERT
ARG SSL_CERT_FILE
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
COPY requirements.lock /build/
RUN awk '/^[a-z]/ { wanted = /^uv==/ } wanted' /build/requirements.lock > /build/uv.txt \
    && pip install --no-cache-dir --require-hashes --target /opt/tools -r /build/uv.txt
COPY pyproject.toml /build/
RUN python3 -c 'import json, pathlib, tomllib; \
        declared = tomllib.loads(pathlib.Path("/build/pyproject.toml").read_text()); \
        project = declared["project"]; \
        lists = {name: project["dependencies"] + extra for name, extra in project["optional-dependencies"].items()}; \
        lists["build"] = declared["build-system"]["requires"]; \
        [(pathlib.Path("/build", name).mkdir(), pathlib.Path("/build", name, "pyproject.toml").write_text( \
            f"[project]\nname = \"{name}\"\nversion = \"0\"\ndependencies = {json.dumps(listed)}\n")) \
         for name, listed in lists.items()]' \
    && touch --date=@0 /build/requirements.lock /build/*/pyproject.toml


# The project's own code, compiled, in one directory an image.
FROM tools AS code
ARG SSL_CERT_FILE
RUN /opt/tools/bin/uv venv /opt/venv \
    && /opt/tools/bin/uv pip install --python /opt/venv --no-cache --require-hashes \
        --constraints /build/requirements.lock --requirements /build/build/pyproject.toml
COPY . /source
RUN /opt/tools/bin/uv build --wheel --no-build-isolation --no-cache --python /opt/venv --out-dir /wheel /source
RUN for image in operator trainer trainer-with-examples; do \
        /opt/tools/bin/uv pip install --no-deps --no-cache --target /code/$image /wheel/*.whl; \
    done \
    && rm -rf /code/*/bin /code/*/finetune_cli /code/trainer*/finetune_operator /code/trainer/finetune_examples \
        /code/operator/finetune_trainer /code/operator/finetune_examples \
    && python -m compileall -q --invalidation-mode unchecked-hash /code


FROM python AS operator
ARG SSL_CERT_FILE
COPY --from=tools /build/requirements.lock /build/operator/pyproject.toml /opt/dependencies/
# The Kubernetes client is half of the layer and holds everything twice. The operator speaks through its asyncio half and
# plain dictionaries, so the other half's typed classes go, and those that stay are not compiled.
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy \
    && /opt/tools/bin/uv venv /opt/venv \
    && /opt/tools/bin/uv pip install --python /opt/venv --require-hashes \
        --constraints /opt/dependencies/requirements.lock --requirements /opt/dependencies/pyproject.toml \
    && find /opt/venv/lib/python3.11/site-packages/kubernetes/client/api \
        /opt/venv/lib/python3.11/site-packages/kubernetes/client/models -name '*.py' ! -name __init__.py -delete \
    && python -m compileall -q --invalidation-mode unchecked-hash -x '/kubernetes/aio/client/(api|models)/' /opt/venv
COPY --from=code /code/operator /opt/venv/lib/python3.11/site-packages/
USER 65532:65532
ENTRYPOINT ["python", "-m", "finetune_operator"]


FROM python AS trainer
ARG SSL_CERT_FILE
# With EXAMPLES=1 the image carries the examples' data and their pre-trained encoder, reachable as pkg:// addresses.
ARG EXAMPLES=""
COPY --from=tools /build/requirements.lock /build/trainer/pyproject.toml /opt/dependencies/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    && /opt/tools/bin/uv venv /opt/venv \
    && /opt/tools/bin/uv pip install --python /opt/venv --require-hashes --compile-bytecode \
        --constraints /opt/dependencies/requirements.lock --requirements /opt/dependencies/pyproject.toml
COPY --from=tools /build/examples/pyproject.toml /opt/dependencies/examples/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    export PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    && test -z "$EXAMPLES" || /opt/tools/bin/uv pip install --python /opt/venv --no-cache --require-hashes \
        --compile-bytecode --constraints /opt/dependencies/requirements.lock \
        --requirements /opt/dependencies/examples/pyproject.toml
# What torch.compile and Triton's kernels are translated with while a run goes on: C++ for a CPU, C for a GPU. Headers
# are translated once where openssl is there to tell them apart.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libpython3-dev openssl \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=code /code/trainer${EXAMPLES:+-with-examples} /opt/venv/lib/python3.11/site-packages/
# The image has no certificate authorities of its own, and object stores' client does not start without any.
ENV SSL_CERT_FILE=/opt/venv/lib/python3.11/site-packages/certifi/cacert.pem
USER 65532:65532
ENTRYPOINT ["python", "-m", "finetune_trainer"]
