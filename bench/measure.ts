import { availableParallelism } from 'node:os';
import {
  childrenOf,
  familyOf,
  forgetPeak,
  machineBusySeconds,
  peakBytes,
  residentBytes,
  sumOf,
  type Usage,
  usageOf,
  usageOfEnded,
} from './processes.ts';

/** The figures of one run. */
export interface Sample {
  readonly seconds: number;
  /** User and system time of every process that took part: commands, daemons, and what they started. */
  readonly cpuSeconds: number;
  /** User and system time of the servers: S3, registry, Redis. */
  readonly serverCpuSeconds: number;
  /** Peak of the resident memory of all these processes, sampled every 0.1 s, or of one of them alone if that is higher. */
  readonly peakBytes: number;
  /** Bytes passed to write calls, for files and for pipes between programs. */
  readonly writtenBytes: number;
  /** Share of all processors that other processes used during the run, 0 to 1. A high one makes the figures unreliable. */
  readonly disturbance: number;
}

/** Child processes of the benchmark that run before, during and after a run. */
export interface Standing {
  /** They do the work, so their usage counts: containerd, a resident worker. */
  readonly workers: readonly number[];
  /** They serve the work, in the same way for every program: S3, registry, Redis. */
  readonly servers: readonly number[];
}

/** Milliseconds between two samples of the memory. One sample takes 0.3 ms. */
const SAMPLE_INTERVAL = 100;

/**
 * Measures `work`. Processes that it starts must have ended when it resolves, except the standing ones.
 * @param work may return seconds to be used instead of the time that passed here
 */
export async function measure(standing: Standing, work: () => Promise<number | undefined>): Promise<Sample> {
  for (const pid of standing.workers) forgetPeak(pid);
  // these processes serve the work, or belong to another program
  const standingBefore = childrenOf(process.pid);
  let peak = 0;
  const sampleMemory = (): void => {
    const started = childrenOf(process.pid).filter((pid) => !standingBefore.includes(pid));
    const roots = [...standing.workers, ...started];
    const now = roots.flatMap(familyOf).reduce((sum, pid) => sum + residentBytes(pid), 0);
    peak = Math.max(peak, now, ...roots.map(peakBytes));
  };
  const before = used(standing);
  const started = performance.now();
  const timer = setInterval(sampleMemory, SAMPLE_INTERVAL);
  let own: number | undefined;
  try {
    own = await work();
  } finally {
    clearInterval(timer);
  }
  const passed = (performance.now() - started) / 1000;
  sampleMemory();
  const after = used(standing);
  const ours = after.everything - before.everything;
  const others = Math.max(0, after.machine - before.machine - ours);
  return {
    seconds: own ?? passed,
    cpuSeconds: after.work.cpuSeconds - before.work.cpuSeconds,
    serverCpuSeconds: after.servers.cpuSeconds - before.servers.cpuSeconds,
    peakBytes: peak,
    writtenBytes: after.work.written - before.work.written,
    disturbance: others / (passed * availableParallelism()),
  };
}

function used({ workers, servers }: Standing): { work: Usage; servers: Usage; everything: number; machine: number } {
  const work = sumOf([usageOfEnded(), ...workers.map(usageOf)]);
  const served = sumOf(servers.map(usageOf));
  const own = process.cpuUsage();
  const everything = work.cpuSeconds + served.cpuSeconds + (own.user + own.system) / 1e6;
  return { work, servers: served, everything, machine: machineBusySeconds() };
}
