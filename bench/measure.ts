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

/** What one run took. */
export interface Sample {
  readonly seconds: number;
  /** User and system time of every process that took part: commands, daemons, and what they started. */
  readonly cpuSeconds: number;
  /** The same of those that served it: an S3 server, a registry, Redis. */
  readonly serverCpuSeconds: number;
  /** The most memory that these had at one moment, looked at every tenth of a second; of each alone, to the byte. */
  readonly peakBytes: number;
  /** Bytes given to write calls: files, and pipes between programs. */
  readonly writtenBytes: number;
  /** Share of all processors that others used meanwhile, 0 to 1: what makes the figures doubtful. */
  readonly disturbance: number;
}

/** Processes of this one's that run throughout and have a part in the work. */
export interface Standing {
  /** They do the work, so that their use counts: containerd, a resident worker. */
  readonly workers: readonly number[];
  /** They serve it, the same for everybody: an S3 server, a registry, Redis. */
  readonly servers: readonly number[];
}

/** Milliseconds between two looks at the memory; a look costs a third of one. */
const LOOK = 100;

/**
 * Measures `work`. What it starts must have ended when it resolves, or be one of the standing ones.
 * @param work may return the seconds that count instead of those that passed here
 */
export async function measure(standing: Standing, work: () => Promise<number | undefined>): Promise<Sample> {
  for (const pid of standing.workers) forgetPeak(pid);
  // what stands here already serves this one's work or waits for its own turn
  const standingBefore = childrenOf(process.pid);
  let peak = 0;
  const look = (): void => {
    const started = childrenOf(process.pid).filter((pid) => !standingBefore.includes(pid));
    const roots = [...standing.workers, ...started];
    const now = roots.flatMap(familyOf).reduce((sum, pid) => sum + residentBytes(pid), 0);
    peak = Math.max(peak, now, ...roots.map(peakBytes));
  };
  const before = used(standing);
  const started = performance.now();
  const timer = setInterval(look, LOOK);
  let own: number | undefined;
  try {
    own = await work();
  } finally {
    clearInterval(timer);
  }
  const passed = (performance.now() - started) / 1000;
  look();
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
