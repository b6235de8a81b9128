# unpackd in a container: worker (default), board, and every other command.
#
#   docker build -t unpackd .
#   docker build -t unpackd --build-arg BASE=registry.example.com/debian:13 .
#   docker run --rm unpackd --help
#
# BASE is any Debian or Ubuntu. The build needs only its package archive and the npm registry: Node is the npm package that
# package-lock.json names, so every base runs the same one.
#
# The container runs as root, because the files of an image belong to many users and only root may set owners.
# docker-compose.yml drops the capabilities that a worker does not need, and says what each of the others is for.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends npm ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund --no-update-notifier
COPY tsconfig.json tsconfig.build.json build.ts LICENSE ./
COPY src src
COPY workers workers
COPY schemas schemas
# the build unpacks a small image, which dev/layout-writer.ts writes
COPY dev dev
RUN npm run build
# the install scripts have put Node into node_modules; nothing else that remains needs one
RUN cp --dereference node_modules/node/bin/node /usr/local/bin/node24 \
  && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --no-update-notifier

FROM ${BASE}
# libstdc++6: for Node. libisal2 is optional: with it, gzip layers inflate twice as fast
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 libisal2 && rm -rf /var/lib/apt/lists/* \
  && ln -s /app/dist/unpackd /usr/local/bin/unpackd
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /usr/local/bin/node24 /usr/local/bin/node
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY schemas schemas
# always a volume: the container's own file system is an overlay, and no overlay can be made on it
VOLUME /var/lib/unpackd
ENTRYPOINT ["unpackd"]
CMD ["worker"]
