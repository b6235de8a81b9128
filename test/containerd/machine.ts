import { once } from 'node:events';
import { endChild, startChild } from '../support/child.ts';

/**
 * A PID and a mount namespace for a daemon with containers. Its shims and containers go on when the daemon is killed, as on a
 * host, and the kernel kills them, and unmounts what they had, when the namespaces end with the test.
 */
export interface Machine {
  /** Begins a command that runs inside. */
  readonly command: readonly string[];
  end(): Promise<void>;
}

/**
 * The first process. The shims' sockets and runc's state are in /run/containerd, whatever the configuration of containerd.
 * The shell waits, so it takes the status of orphans too. Mounts propagate, as on a host that systemd has started.
 */
const FIRST_PROCESS = `
mount --make-rshared / || exit
mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd || exit
echo ready
sleep infinity &
while :; do wait; done`;

const NAMESPACES = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];

/** @throws Error if the namespaces can't be made */
export async function startMachine(): Promise<Machine> {
  const child = startChild('unshare', [...NAMESPACES, 'sh', '-c', FIRST_PROCESS], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let complaint = '';
  child.stderr?.on('data', (piece: Buffer) => {
    complaint += piece.toString();
  });
  const [first] = await Promise.race([once(child.stdout ?? child, 'data'), once(child, 'close')]);
  if (!Buffer.isBuffer(first)) throw new Error(`no namespaces for containers: ${complaint || first}`);
  const namespaces = `/proc/${child.pid}/ns`;
  return {
    command: ['nsenter', `--mount=${namespaces}/mnt`, `--pid=${namespaces}/pid_for_children`, '--'],
    end: () => endChild(child),
  };
}
