# NVIDIA's image as it is, with the flags of deploy/k8s and its probe as the health check. In Kubernetes the stock image
# runs by itself; this one is for compose.yaml.
FROM nvcr.io/nvidia/tritonserver:24.10-py3
COPY deploy/k8s/components/probe/probe.py /probe/probe.py
ENV MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=4194304 MALLOC_TRIM_THRESHOLD_=8388608
USER 1000:1000
EXPOSE 8001 8002
# Ready only: nothing here restarts a container that is unhealthy, and people should see why models are not there.
HEALTHCHECK --start-period=600s --interval=5s --timeout=3s --retries=2 CMD ["python3", "/probe/probe.py", "ready"]
# The shell puts the key in, which is not to be in an image.
ENTRYPOINT ["/bin/sh", "-c", "exec tritonserver \"$@\" \
  --grpc-restricted-protocol=model-repository,model-config,shared-memory,trace,logging:admin-key=$ADMIN_KEY \
  --http-restricted-api=model-repository,model-config,shared-memory,trace,logging,inference:admin-key=$ADMIN_KEY", "tritonserver"]
CMD ["--model-repository=/models/repository", "--model-config-name=cpu", "--model-control-mode=explicit", \
  "--load-model=*", "--strict-readiness=false", "--exit-timeout-secs=45", "--grpc-max-connection-age=20000", \
  "--grpc-max-connection-age-grace=60000", \
  "--metrics-config=summary_latencies=true", "--http-address=127.0.0.1", "--metrics-address=0.0.0.0"]
