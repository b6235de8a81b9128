import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** Seconds of one clock tick in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Node runs on. */
const TICK = 0.01;

/** What a process has used by now, with those of its children that it has waited for. */
export interface Usage {
  readonly cpuSeconds: number;
  /** Bytes given to write(2) and its kin, whatever they went to: files, pipes, sockets. */
  readonly written: number;
}

const NOTHING: Usage = { cpuSeconds: 0, written: 0 };

/** @returns zeros for a process that is gone */
export function usageOf(pid: number): Usage {
  const [utime = 0, stime = 0, cutime = 0, cstime = 0] = statFields(pid).slice(11, 15).map(Number);
  return { cpuSeconds: (utime + stime + cutime + cstime) * TICK, written: writtenBy(pid) };
}

/** What the children of this process that have ended have used, and theirs. */
export function usageOfEnded(): Usage {
  const [cutime = 0, cstime = 0] = statFields(process.pid).slice(13, 15).map(Number);
  return { cpuSeconds: (cutime + cstime) * TICK, written: writtenBy(process.pid) };
}

export function sumOf(usages: readonly Usage[]): Usage {
  return usages.reduce(
    (sum, one) => ({ cpuSeconds: sum.cpuSeconds + one.cpuSeconds, written: sum.written + one.written }),
    NOTHING,
  );
}

/** Seconds that all processors together have worked since the start of the machine. */
export function machineBusySeconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = readFileSync('/proc/stat', 'utf8')
    .slice('cpu'.length, 200)
    .trim()
    .split(/\s+/)
    .map(Number);
  return (user + nice + system + irq + softirq + steal) * TICK;
}

/** The process and everything it has started that still runs. */
export function familyOf(pid: number): number[] {
  const family = [pid];
  for (const member of family) family.push(...childrenOf(member));
  return family;
}

/** Bytes in memory now; shared pages count for each process. */
export function residentBytes(pid: number): number {
  return statusKilobytes(pid, 'VmRSS') * 1024;
}

/** The most since the process began, or since `forgetPeak`. */
export function peakBytes(pid: number): number {
  return statusKilobytes(pid, 'VmHWM') * 1024;
}

export function forgetPeak(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5'); // proc(5): resets the high water mark
  } catch {
    // gone, or not ours: the peak is then that of its whole life
  }
}

/** Every thread has children of its own: a Node process starts programs from its worker threads too. */
export function childrenOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      read(`/proc/${pid}/task/${thread}/children`)
        .split(' ')
        .filter((text) => text !== '')
        .map(Number),
    );
  } catch {
    return [];
  }
}

/** Fields of /proc/PID/stat from the state on: the name before may hold spaces. */
function statFields(pid: number): string[] {
  const text = read(`/proc/${pid}/stat`);
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

function writtenBy(pid: number): number {
  return Number(/^wchar: (\d+)/m.exec(read(`/proc/${pid}/io`))?.[1] ?? 0);
}

function statusKilobytes(pid: number, field: string): number {
  return Number(new RegExp(`^${field}:\\s*(\\d+)`, 'm').exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
}

/** Nothing for a process that has ended meanwhile. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
