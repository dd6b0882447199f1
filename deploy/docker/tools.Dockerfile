# Client, load test, release and the verifier of models: everything but torch and a server.
# docker build -f deploy/docker/tools.Dockerfile -t registry.example.com/rfserve-tools:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir --prefix=/installed --constraint=constraints.txt '.[clients,loadtest,release,s3]'

FROM python:3.11.14-slim-bookworm
COPY --from=build /installed /usr/local
USER 1000:1000
WORKDIR /tmp
CMD ["rfserve-client", "--help"]
