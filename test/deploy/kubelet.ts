import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { PodSpec } from 'kubernetes-types/core/v1.d.ts';
import type { ContainerConfig, CriMount } from '../containerd/cri.ts';
import { type Manifest, manifest } from './manifests.ts';

/** What a kubelet makes of a pod before it calls CRI: the same image, settings, mounts, user, capabilities and limits. */

/** The node that the pod runs on. */
export interface TestNode {
  readonly name: string;
  /** Reference of the image that containerd has, in place of the one in the manifest. */
  readonly image: string;
  /** Where a path of the node is on this machine. */
  hostPath(path: string): string;
  /** A directory for volumes of the pod. */
  readonly volumes: string;
}

// what a kubelet hides from a container that is not privileged (securitycontext.ConvertToRuntimeMaskedPaths)
const MASKED = [
  ...['asound', 'acpi', 'interrupts', 'kcore', 'keys', 'latency_stats', 'timer_list', 'timer_stats'],
  ...['sched_debug', 'scsi'],
].map((name) => `/proc/${name}`);
const READ_ONLY = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger'].map((name) => `/proc/${name}`);

const PROPAGATION = {
  None: 'PROPAGATION_PRIVATE',
  HostToContainer: 'PROPAGATION_HOST_TO_CONTAINER',
  Bidirectional: 'PROPAGATION_BIDIRECTIONAL',
} as const;

/** The container of a pod for CRI. @throws Error for what this kubelet does not know */
export function containerOf(pod: PodSpec, manifests: readonly Manifest[], node: TestNode): ContainerConfig {
  const [container, ...others] = pod.containers;
  if (container === undefined || others.length > 0) throw new Error('a pod with one container is expected');
  const security = { ...pod.securityContext, ...container.securityContext };
  if (security.privileged === true) throw new Error('privileged is not known here');
  if (security.runAsNonRoot === true && (security.runAsUser ?? 0) === 0) throw new Error('it would run as root');
  const group = security.runAsGroup;
  return {
    image: { image: node.image },
    args: container.args ?? [],
    envs: [...environment(container, manifests, node)].map(([key, value]) => ({ key, value })),
    mounts: (container.volumeMounts ?? []).map((mount): CriMount => {
      const volume = pod.volumes?.find(({ name }) => name === mount.name);
      return {
        containerPath: mount.mountPath,
        hostPath: source(volume, node),
        readonly: mount.readOnly ?? false,
        propagation: PROPAGATION[(mount.mountPropagation ?? 'None') as keyof typeof PROPAGATION],
      };
    }),
    resources: { memoryLimitInBytes: bytes(container.resources?.limits?.memory) },
    securityContext: {
      capabilities: {
        addCapabilities: security.capabilities?.add ?? [],
        dropCapabilities: security.capabilities?.drop ?? [],
      },
      ...(security.runAsUser === undefined ? {} : { runAsUser: { value: security.runAsUser } }),
      ...(group === undefined ? {} : { runAsGroup: { value: group } }),
      readonlyRootfs: security.readOnlyRootFilesystem ?? false,
      noNewPrivs: security.allowPrivilegeEscalation === false,
      seccomp: { profileType: security.seccompProfile?.type ?? 'Unconfined' },
      maskedPaths: MASKED,
      readonlyPaths: READ_ONLY,
    },
  };
}

/** `env` replaces what `envFrom` has. */
function environment(container: PodSpec['containers'][0], manifests: readonly Manifest[], node: TestNode) {
  const secretOf = (name = ''): Readonly<Record<string, string>> => {
    const secret = manifest(manifests, 'Secret');
    if (secret.metadata?.name !== name) throw new Error(`there is no Secret ${name}`);
    const decoded = Object.entries(secret.data ?? {}).map(
      ([key, value]) => [key, Buffer.from(value, 'base64')] as const,
    );
    return Object.fromEntries(decoded.map(([key, value]) => [key, value.toString()]));
  };
  const found = new Map<string, string>();
  for (const { secretRef } of container.envFrom ?? []) {
    for (const [name, value] of Object.entries(secretOf(secretRef?.name))) found.set(name, value);
  }
  for (const { name, value, valueFrom } of container.env ?? []) {
    const reference = valueFrom?.secretKeyRef;
    const given =
      value ??
      (reference === undefined
        ? fieldOf(valueFrom?.fieldRef?.fieldPath, node)
        : secretOf(reference.name)[reference.key]);
    if (given === undefined) throw new Error(`${name} has no value`);
    found.set(name, given);
  }
  return found;
}

function fieldOf(path: string | undefined, node: TestNode): string {
  if (path !== 'spec.nodeName') throw new Error(`the field ${path} is not known here`);
  return node.name;
}

/** The directory of a volume, which is made if the kubelet makes it. */
function source(volume: NonNullable<PodSpec['volumes']>[0] | undefined, node: TestNode): string {
  if (volume?.emptyDir !== undefined) {
    const path = join(node.volumes, volume.name);
    mkdirSync(path, { recursive: true, mode: 0o777 });
    return path;
  }
  if (volume?.hostPath === undefined) throw new Error(`the volume ${volume?.name} is of no known kind`);
  const path = node.hostPath(volume.hostPath.path);
  if (volume.hostPath.type === 'DirectoryOrCreate') mkdirSync(path, { recursive: true, mode: 0o755 });
  return path;
}

/** `512Mi` and the like. */
function bytes(quantity: string | number | undefined): number {
  const [, number, unit] = /^(\d+)(Mi|Gi)$/.exec(String(quantity)) ?? [];
  if (number === undefined) throw new Error(`the quantity ${quantity} is not known here`);
  return Number(number) * (unit === 'Gi' ? 1 << 30 : 1 << 20);
}
