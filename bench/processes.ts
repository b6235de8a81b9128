import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** Seconds of one clock tick in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Node runs on. */
const TICK = 0.01;

/** What a process and its children that have ended have used so far, from /proc. `measure.ts` reads it. */
export interface Usage {
  readonly cpuSeconds: number;
  /** Bytes passed to write(2) and similar calls, for files, pipes and sockets. */
  readonly written: number;
}

const NOTHING: Usage = { cpuSeconds: 0, written: 0 };

/** @returns zeros for a process that has ended */
export function usageOf(pid: number): Usage {
  const [utime = 0, stime = 0, cutime = 0, cstime = 0] = statFields(pid).slice(11, 15).map(Number);
  return { cpuSeconds: (utime + stime + cutime + cstime) * TICK, written: writtenBy(pid) };
}

/** The usage of the children of this process that have ended, with that of their children. */
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

/** Busy seconds of all processors together since the machine started. */
export function machineBusySeconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = readFileSync('/proc/stat', 'utf8')
    .slice('cpu'.length, 200)
    .trim()
    .split(/\s+/)
    .map(Number);
  return (user + nice + system + irq + softirq + steal) * TICK;
}

/** The process and all its descendants that are running. */
export function familyOf(pid: number): number[] {
  const family = [pid];
  for (const member of family) family.push(...childrenOf(member));
  return family;
}

/** Resident memory in bytes. Pages that processes share count for each of them. */
export function residentBytes(pid: number): number {
  return statusKilobytes(pid, 'VmRSS') * 1024;
}

/** Peak of the resident memory in bytes since the process began, or since `forgetPeak`. */
export function peakBytes(pid: number): number {
  return statusKilobytes(pid, 'VmHWM') * 1024;
}

export function forgetPeak(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5'); // proc(5): resets the high water mark
  } catch {
    // the process has ended or belongs to another user: the peak is that since its beginning
  }
}

/** A process has a list of children for each thread; Node starts programs from worker threads too. */
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

/** Fields of /proc/PID/stat from the state on. The name before it may contain spaces. */
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

/** Empty if the process has ended. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
