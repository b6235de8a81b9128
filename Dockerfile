# unpackd in a container: worker (default), board, and every other command.
#
#   docker build -t unpackd .
#   docker run --rm unpackd --help
#
# The container runs as root, because the files of an image belong to many users and only root may set owners.
# docker-compose.yml drops the capabilities that a worker does not need, and says what each of the others is for.
FROM node:24-slim AS build
WORKDIR /app
# no install scripts: the only script that the project needs installs Node, which this image already has
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json build.ts ./
COPY src src
COPY workers workers
# the build unpacks a small image, which dev/layout-writer.ts writes
COPY dev dev
# not through npm, because npm would run the Node in node_modules, which was not installed
RUN node build.ts
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24-slim
# optional: with libisal2, gzip layers inflate twice as fast
RUN apt-get update && apt-get install -y --no-install-recommends libisal2 && rm -rf /var/lib/apt/lists/*
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY schemas schemas
# always a volume: the container's own file system is an overlay, and no overlay can be made on it
VOLUME /var/lib/unpackd
ENTRYPOINT ["node", "/app/dist/src/cli/main.cjs"]
CMD ["worker"]
