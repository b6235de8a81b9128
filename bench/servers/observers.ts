import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, listen } from '../../dev/local-programs.ts';

/** What observes a worker in the benchmark: a Prometheus that scrapes it, or a collector of traces. */
export interface Observer {
  /** The settings of the worker. */
  readonly settings: Readonly<Record<string, string>>;
  /** What has arrived, for the notes. */
  readonly arrived: () => string;
  stop(): void;
}

/** Milliseconds between two scrapes. A usual Prometheus scrapes every 15 to 60 seconds. */
const SCRAPE_INTERVAL = 1000;

/** Reads the metrics of a worker every second. */
export async function scraper(): Promise<Observer> {
  const port = await freePort();
  const stop = new AbortController();
  let pages = 0;
  const scrape = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      const page = await fetch(`http://127.0.0.1:${port}/metrics`).catch(() => undefined);
      if (page?.ok && (await page.text()).includes('unpackd_jobs_total')) pages += 1;
      await sleep(SCRAPE_INTERVAL, undefined, { signal: stop.signal }).catch(() => {});
    }
  };
  void scrape();
  return {
    settings: { UNPACK_HEALTH_HOST: '127.0.0.1', UNPACK_HEALTH_PORT: String(port) },
    arrived: () => `${pages} scrapes`,
    stop: () => stop.abort(),
  };
}

/** Accepts the spans of a worker, and drops them. */
export async function collector(): Promise<Observer> {
  let requests = 0;
  let bytes = 0;
  const server = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    request.on('end', () => {
      requests += 1;
      response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
    });
  });
  const port = await listen(server);
  return {
    settings: { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}` },
    arrived: () => `${requests} requests with ${Math.round(bytes / 1e6)} MB of spans`,
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
