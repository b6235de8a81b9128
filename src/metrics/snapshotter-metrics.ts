import { Counter, Histogram, type Registry } from 'prom-client';
import type { CallObserver } from '../grpc/server.ts';
import { LAYER_BUCKETS } from './buckets.ts';

const METHODS = [
  'Prepare',
  'View',
  'Mounts',
  'Commit',
  'Remove',
  'Stat',
  'Update',
  'List',
  'Usage',
  'Cleanup',
] as const;
/** The codes of usual answers, and those of failures of the machine (`src/proxy/failure.ts`). */
const CODES = [
  'OK',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'FAILED_PRECONDITION',
  'RESOURCE_EXHAUSTED',
  'UNAVAILABLE',
  'INTERNAL',
] as const;

/** Counts the calls of containerd to a store that is served. `unpackd snapshotter` and workers use it. */
export function snapshotterMetrics(registry: Registry): CallObserver {
  const registers = [registry];
  const calls = new Counter({
    name: 'unpackd_snapshotter_calls_total',
    help: 'Calls of containerd, by the status of gRPC. Failures of the machine: RESOURCE_EXHAUSTED, UNAVAILABLE, INTERNAL.',
    labelNames: ['code'],
    registers,
  });
  const seconds = new Histogram({
    name: 'unpackd_snapshotter_call_duration_seconds',
    help: 'Duration of calls of containerd.',
    labelNames: ['method'],
    buckets: LAYER_BUCKETS,
    registers,
  });
  for (const code of CODES) calls.inc({ code }, 0);
  for (const method of METHODS) seconds.zero({ method });
  return (method, code, milliseconds) => {
    calls.inc({ code });
    seconds.observe({ method }, milliseconds / 1000);
  };
}
