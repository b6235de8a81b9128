import { randomUUID } from 'node:crypto';
import { createConnection } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMissing } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { type Address, type CallOptions, type ContainerdClient, connectContainerd } from '../grpc/client.ts';
import { GrpcError } from '../grpc/errors.ts';
import type { Plugin } from '../grpc/services.ts';
import { storeError } from '../snapshots/containerd/errors.ts';
import { expiring } from '../snapshots/containerd/leases.ts';
import { type Check, fail, reason } from './check.ts';

/** The connection to containerd, for the checks of `unpackd doctor`: whether something listens on the socket, and answers. */

/** A containerd that has answered. */
export interface RunningContainerd {
  readonly address: Address;
  readonly client: ContainerdClient;
  /** Such as `1.6.20` or `2.1.9`, with the suffix of a distribution or a pre-release. */
  readonly version: string;
  readonly snapshotters: readonly Plugin[];
  /** The names of its namespaces. */
  readonly namespaces: readonly string[];
}

/** A place where a distribution keeps the socket of its containerd. */
export interface KnownSocket {
  readonly path: string;
  readonly of: string;
  /** Where people write its configuration; absent if another program writes it at each start. */
  readonly configuration?: string;
}

const KNOWN_SOCKETS: readonly KnownSocket[] = [
  { path: '/run/containerd/containerd.sock', of: 'containerd', configuration: '/etc/containerd/config.toml' },
  // docs.k3s.io and docs.rke2.io, "CLI tools"
  {
    path: '/run/k3s/containerd/containerd.sock',
    of: 'K3s or RKE2',
    configuration: 'config.toml.tmpl in /var/lib/rancher/k3s/agent/etc/containerd, or below /var/lib/rancher/rke2',
  },
  // microk8s, microk8s-resources/default-args/containerd
  {
    path: '/var/snap/microk8s/common/run/containerd.sock',
    of: 'MicroK8s',
    configuration: '/var/snap/microk8s/current/args/containerd-template.toml',
  },
  // docs.k0sproject.io, "Runtime"
  { path: '/run/k0s/containerd.sock', of: 'k0s', configuration: 'a file in /etc/k0s/containerd.d' },
  // moby, libcontainerd/supervisor: the containerd that dockerd starts if the machine has none
  { path: '/run/docker/containerd/containerd.sock', of: 'Docker' },
];

/** Where people write the configuration of the containerd with this socket. */
export function configurationOf(socket: string): string {
  const known = KNOWN_SOCKETS.find(({ path }) => path === socket);
  return known?.configuration ?? 'usually /etc/containerd/config.toml';
}

/** Milliseconds that a connection or a call may take. */
const PATIENCE = 5000;

/**
 * Connects to containerd and runs `checks` with it. If it cannot be used, the result is one failed check with advice, which
 * names the sockets of other containerds of this machine.
 */
export async function withContainerd(
  address: Address,
  checks: (daemon: RunningContainerd) => Promise<readonly Check[]>,
  known: readonly KnownSocket[] = KNOWN_SOCKETS,
): Promise<readonly Check[]> {
  const { socket } = address;
  const unreachable = await connectionProblem(socket);
  if (unreachable !== undefined) {
    const others = await listening(known.filter(({ path }) => path !== socket));
    const named = others.map(({ path, of }) => `${path} (${of})`).join(', ');
    const advice = others.length === 0 ? unreachable.advice : `set UNPACK_CONTAINERD_SOCKET; here are: ${named}`;
    return [fail('containerd', `${socket} ${unreachable.finding}`, advice)];
  }
  const client = connectContainerd(address);
  try {
    const answer = await ask(client);
    if (answer instanceof GrpcError) return [noContainerd(socket, answer)];
    return await checks({ address, client, ...answer });
  } finally {
    client.close();
  }
}

async function ask(client: ContainerdClient): Promise<Omit<RunningContainerd, 'address' | 'client'> | GrpcError> {
  const options = { deadline: PATIENCE };
  try {
    const { version } = await client.version.Version({}, options);
    const filters = ['type==io.containerd.snapshotter.v1'];
    const { plugins } = await client.introspection.Plugins({ filters }, options);
    const { namespaces } = await client.namespaces.List({}, options);
    return {
      version: version.replace(/^v/, ''),
      snapshotters: plugins,
      namespaces: namespaces.map(({ name }) => name).sort(),
    };
  } catch (error) {
    if (error instanceof GrpcError) return error;
    throw error;
  }
}

function noContainerd(socket: string, error: GrpcError): Check {
  const { code, details, method } = error;
  if (code === 'DEADLINE_EXCEEDED') {
    return fail(
      'containerd',
      `${socket} accepts connections, but nothing answers within ${PATIENCE / 1000} s`,
      'see the log of containerd and restart it; running containers go on',
    );
  }
  // it has answered the first call, so it is a containerd, with a fault that a job sees too
  if (!method.endsWith('/Version')) return refusal('containerd', storeError(error, socket));
  return fail(
    'containerd',
    `${socket} does not answer as containerd does: ${code}: ${details}`,
    'set UNPACK_CONTAINERD_SOCKET to the socket of containerd itself, not to that of Docker or another runtime',
  );
}

/** A failed check of an error whose message ends with the advice. */
export function refusal(name: string, error: unknown): Check {
  const text = reason(error);
  const end = error instanceof UnpackError && error.code === 'STORE_FULL' ? text.indexOf('; ') : text.lastIndexOf(': ');
  if (!(error instanceof UnpackError) || end === -1) return fail(name, text, 'see the log of containerd');
  return fail(name, text.slice(0, end), text.slice(end + 2));
}

interface Problem {
  readonly finding: string;
  readonly advice: string;
}

const START = 'start containerd (systemctl start containerd), or set UNPACK_CONTAINERD_SOCKET';

/** Why no connection to a socket is possible; `undefined` if one is. */
async function connectionProblem(socket: string): Promise<Problem | undefined> {
  const error = await connect(socket);
  if (error === undefined) return undefined;
  if (isMissing(error)) {
    return {
      finding: 'does not exist',
      advice: `${START}; in a container, mount the directory of the host that has the socket, at the same path`,
    };
  }
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EACCES':
    case 'EPERM':
      return {
        finding: 'may not be used by this user',
        advice: 'run as root, whom the socket of containerd belongs to',
      };
    case 'ECONNREFUSED':
      return { finding: 'is there, but no program listens on it', advice: START };
    case 'ENOTSOCK':
      return { finding: 'is not a socket', advice: START };
    default:
      return { finding: `cannot be used: ${reason(error)}`, advice: START };
  }
}

/** Opens a connection and closes it. @returns the error, or `undefined` if it could be opened */
async function connect(socket: string): Promise<Error | undefined> {
  const connection = createConnection(socket);
  const late = new AbortController();
  try {
    return await Promise.race([
      new Promise<undefined>((resolve) => connection.once('connect', () => resolve(undefined))),
      new Promise<Error>((resolve) => connection.once('error', resolve)),
      sleep(PATIENCE, new Error(`no connection within ${PATIENCE / 1000} s`), { signal: late.signal }),
    ]);
  } finally {
    late.abort();
    connection.destroy();
  }
}

async function listening(sockets: readonly KnownSocket[]): Promise<readonly KnownSocket[]> {
  const found = await Promise.all(sockets.map(async (one) => ((await connect(one.path)) === undefined ? [one] : [])));
  return found.flat();
}

/** Milliseconds for a call that writes; a collection of containerd delays it. */
const WRITE_PATIENCE = 60_000;
/** Milliseconds after which containerd removes what a killed doctor has left. */
const LEFTOVERS = 300_000;

/** Where a check may make a snapshot for a moment. */
export interface Trial {
  readonly client: ContainerdClient;
  /** The ID of the lease that everything belongs to. */
  readonly lease: string;
  /** Options of each call. */
  readonly options: CallOptions;
}

/**
 * Takes a lease for `work`, and deletes it. It uses a namespace that exists, because a new one would stay, and all namespaces
 * share the directories of a snapshotter.
 * @returns `undefined` if there is no namespace yet, else what `work` returns
 * @throws GrpcError if containerd refuses a call
 */
export async function tryOut<T>(
  { address, namespaces }: RunningContainerd,
  work: (trial: Trial) => Promise<T>,
): Promise<T | undefined> {
  const namespace = namespaces.includes(address.namespace) ? address.namespace : namespaces[0];
  if (namespace === undefined) return undefined;
  const client = connectContainerd({ ...address, namespace });
  try {
    const lease = `unpackd-doctor-${randomUUID()}`;
    const options = { deadline: WRITE_PATIENCE };
    await client.leases.Create({ id: lease, labels: expiring(LEFTOVERS) }, options);
    try {
      return await work({ client, lease, options: { ...options, lease } });
    } finally {
      await client.leases.Delete({ id: lease }, options);
    }
  } finally {
    client.close();
  }
}
