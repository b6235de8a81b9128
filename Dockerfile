# unpackd in a container: worker (default), board, and every other command.
#
#   docker build -t unpackd .
#   docker run --rm unpackd --help
#
# The user is root: files of an image belong to any user, and only root may give files away. What a worker needs beyond
# that is a short list of capabilities; docker-compose.yml drops the others and says what each is for.
FROM node:24-slim AS build
WORKDIR /app
# no install scripts: the only one wanted fetches the Node runtime that this image has already
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json build.ts ./
COPY src src
COPY workers workers
# the build unpacks a small image, which dev/layout-writer.ts writes
COPY dev dev
# by its path, not through npm: npm would look for the Node runtime of node_modules first, which is not there
RUN node build.ts
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24-slim
# gzip layers inflate twice as fast with it; everything works without
RUN apt-get update && apt-get install -y --no-install-recommends libisal2 && rm -rf /var/lib/apt/lists/*
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY schemas schemas
# a volume even where none is given: the container's own file system is an overlay, and overlays do not stack on one
VOLUME /var/lib/unpackd
ENTRYPOINT ["node", "/app/dist/src/cli/main.cjs"]
CMD ["worker"]
