import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { errnoOf } from '../errno.ts';
import { close } from './files.ts';
import { libc, systemError } from './libc.ts';

/**
 * The mounts of all processes of the machine. `snapshots/mounted.ts` looks in them for the mounts of a store.
 *
 * Each mount namespace is read once, through one of its processes. /proc/PID/mountinfo lists only what is below the root of
 * that process, so in one namespace there is one reading for each root.
 *
 * Measured: 500 processes in one namespace take 7 ms; 500 namespaces of 20 mounts each take 40 ms.
 */

export interface NamespaceMounts {
  /** The process whose mountinfo was read. */
  readonly process: number;
  /** The path to the root directory of that process. */
  readonly root: string;
  /** The lines of mountinfo. */
  readonly text: string;
}

export interface AllMounts {
  readonly namespaces: readonly NamespaceMounts[];
  /** Why there may be mounts that were not seen, and what to do, as a clause. `undefined`: all were seen. */
  readonly unseen: string | undefined;
}

/** /proc/self/ns/pid of a process that sees all others: the number is a constant of the kernel (PROC_PID_INIT_INO). */
const INITIAL_PID_NAMESPACE = 'pid:[4026531836]';
/** How often the processes are listed, because new ones come while the list is read. */
const MOST_PASSES = 5;

/** Synchronous, so that nothing else of this process changes mounts meanwhile. @throws system errors of this process's own files */
export function allMounts(): AllMounts {
  const reading = new Reading();
  for (let pass = 1; pass <= MOST_PASSES && reading.pass(pass > 1); pass += 1);
  return { namespaces: reading.namespaces, unseen: reading.unseen() };
}

class Reading {
  readonly namespaces: NamespaceMounts[] = [];
  /** Namespace and root of each reading. */
  readonly #read = new Set<string>();
  /** The namespaces that were read through a process at their root. */
  readonly #whole = new Set<string>();
  /** The first mount of each reading. A mount belongs to one namespace, so its ID tells whether two readings are of one. */
  readonly #firstMounts = new Set<string>();
  /** The first mounts of namespaces whose names cannot be read. */
  readonly #nameless = new Set<string>();
  #unreadable: string | undefined;
  /** Namespaces that the kernel has and no process has shown. `undefined`: the kernel cannot list them. */
  #missing: readonly string[] | undefined;

  /**
   * Reads the namespaces that were not read yet.
   * @param threads also those of single threads
   * @returns whether another pass may find more
   */
  pass(threads: boolean): boolean {
    const before = this.namespaces.length;
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const found = this.#process(`/proc/${name}`, Number(name));
      // the first thread of a process can end before the others
      if (threads || !found) this.#threads(name);
    }
    const all = namespacesOfKernel();
    // the kernel leaves out those that this process has no rights in
    const complete = all !== undefined && [...this.#whole].every((namespace) => all.has(namespace));
    if (!complete) return !threads || this.namespaces.length > before;
    const missing = [...all].filter((namespace) => !this.#whole.has(namespace));
    this.#missing = missing.length <= this.#nameless.size ? [] : missing;
    return this.#missing.length > 0;
  }

  unseen(): string | undefined {
    if (linkOf('/proc/self/ns/pid') !== INITIAL_PID_NAMESPACE)
      return 'this process is in a PID namespace of its own, such as that of a container: run it with the processes of the host (docker run --pid=host)';
    if (linkOf('/proc/1/root') === undefined) this.#unreadable ??= 'the processes of other users are hidden';
    if (this.#unreadable !== undefined)
      return `${this.#unreadable}: run it as root, with /proc mounted without hidepid`;
    const [first] = this.#missing ?? this.#keptByMounts();
    if (first === undefined) return undefined;
    return `no process shows all of the mount namespace ${first}: it is kept by a mount (findmnt -t nsfs), by an open file, or by processes in a chroot; end what keeps it`;
  }

  /** @returns whether the process has a mount namespace */
  #process(directory: string, pid: number): boolean {
    const namespace = linkOf(`${directory}/ns/mnt`);
    if (namespace === undefined) return false;
    // without permission to see the name of the namespace, its mounts can still be read
    if (namespace === null) return this.#take(directory, pid, undefined, '/');
    const root = linkOf(`${directory}/root`);
    if (root === undefined) return false;
    return this.#take(directory, pid, namespace, root ?? '/');
  }

  #threads(pid: string): void {
    let threads: string[];
    try {
      threads = readdirSync(`/proc/${pid}/task`);
    } catch {
      return; // it has ended
    }
    for (const thread of threads) if (thread !== pid) this.#process(`/proc/${pid}/task/${thread}`, Number(pid));
  }

  /** @param namespace its name, if it can be read @param root of the process */
  #take(directory: string, pid: number, namespace: string | undefined, root: string): boolean {
    const key = `${namespace} ${root}`;
    if (namespace !== undefined && this.#read.has(key)) return true;
    let text: string;
    try {
      text = readFileSync(`${directory}/mountinfo`, 'utf8');
    } catch (error) {
      if (isEnded(error)) return false;
      this.#unreadable ??= `the mounts of process ${pid} cannot be read (${errnoOf(error)})`;
      return true;
    }
    const first = text.slice(0, text.indexOf(' '));
    const known = this.#firstMounts.has(first);
    this.#firstMounts.add(first);
    if (namespace === undefined) {
      if (!known) this.#nameless.add(first);
    } else {
      this.#nameless.delete(first);
      this.#read.add(key);
      if (root === '/') this.#whole.add(namespace);
    }
    if (!known || namespace !== undefined) this.namespaces.push({ process: pid, root: `${directory}/root`, text });
    return true;
  }

  /** Namespaces that a mount keeps although no process is in them, for kernels that cannot list namespaces. */
  #keptByMounts(): Set<string> {
    const kept = new Set<string>();
    for (const { text } of this.namespaces)
      for (const [, namespace = ''] of text.matchAll(/ (mnt:\[\d+\]) /g))
        if (!this.#whole.has(namespace)) kept.add(namespace);
    return kept;
  }
}

/** The target of a link in /proc; `null` if it may not be read, `undefined` if the process has ended. */
function linkOf(path: string): string | null | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    return isEnded(error) ? undefined : null;
  }
}

/** EINVAL: the process has ended, and its parent has not asked for its status yet. */
function isEnded(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'ENOENT' || errno === 'ESRCH' || errno === 'EINVAL';
}

const ioctl = libc.func('int ioctl(int, ulong, void *)');
/** Opens the next or the previous mount namespace of the machine (linux/nsfs.h, Linux 6.12). */
const NS_MNT_GET_NEXT = 0x8010b70b;
const NS_MNT_GET_PREV = 0x8010b70c;

/** All mount namespaces, as the links in /proc name them; `undefined` if the kernel does not list them to this process. */
function namespacesOfKernel(): Set<string> | undefined {
  if (process.geteuid?.() !== 0) return undefined;
  const info = Buffer.alloc(16);
  const all = new Set<string>();
  const own = openSync('/proc/self/ns/mnt', 'r');
  try {
    all.add(nameOf(own));
    for (const direction of [NS_MNT_GET_NEXT, NS_MNT_GET_PREV]) {
      let at = own;
      for (;;) {
        info.writeUInt32LE(info.length, 0);
        const next = Number(ioctl(at, direction, info));
        const end = next < 0 ? systemError('ioctl').code : undefined;
        if (at !== own) close(at);
        if (end === 'ENOENT') break;
        if (end !== undefined) return undefined;
        all.add(nameOf(next));
        at = next;
      }
    }
  } finally {
    closeSync(own);
  }
  return all;
}

function nameOf(descriptor: number): string {
  return `mnt:[${fstatSync(descriptor).ino}]`;
}
