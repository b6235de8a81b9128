import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '../../src/grpc/client.ts';
import { loadService } from '../../src/grpc/definitions.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { eventually } from '../support/eventually.ts';
import type { Daemon } from './daemon.ts';

/** What a kubelet does with containerd: its images, and pods in the network of the host, which need no CNI plugin. */

export interface CriImage {
  /** The config's digest. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  /** Bytes. */
  readonly size: number;
  readonly pinned: boolean;
}

interface ImageSpec {
  readonly image: string;
}

interface ImageService {
  ListImages(request: object): { readonly images: readonly CriImage[] };
  ImageStatus(request: { readonly image: ImageSpec }): { readonly image: CriImage | null };
  PullImage(request: { readonly image: ImageSpec }): { readonly imageRef: string };
  RemoveImage(request: { readonly image: ImageSpec }): object;
}

/** What a container is started with, in the words of CRI. */
export interface ContainerConfig {
  readonly image: ImageSpec;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly envs?: readonly { readonly key: string; readonly value: string }[];
  readonly mounts?: readonly CriMount[];
  readonly resources?: { readonly memoryLimitInBytes?: number };
  readonly securityContext?: object;
}

export interface CriMount {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly readonly: boolean;
  readonly propagation: 'PROPAGATION_PRIVATE' | 'PROPAGATION_HOST_TO_CONTAINER' | 'PROPAGATION_BIDIRECTIONAL';
}

interface PodConfig {
  readonly metadata: object;
  readonly logDirectory?: string;
  readonly linux: object;
}

interface RuntimeService {
  Status(request: object): { readonly status: { readonly conditions: readonly Condition[] } | null };
  RunPodSandbox(request: { readonly config: PodConfig }): { readonly podSandboxId: string };
  StopPodSandbox(request: { readonly podSandboxId: string }): object;
  RemovePodSandbox(request: { readonly podSandboxId: string }): object;
  CreateContainer(request: {
    readonly podSandboxId: string;
    readonly config: object;
    readonly sandboxConfig: PodConfig;
  }): { readonly containerId: string };
  StartContainer(request: { readonly containerId: string }): object;
  StopContainer(request: { readonly containerId: string; readonly timeout: number }): object;
  ContainerStatus(request: { readonly containerId: string }): {
    readonly status: ContainerStatus | null;
  };
  ExecSync(request: { readonly containerId: string; readonly cmd: readonly string[]; readonly timeout: number }): {
    readonly stdout: Buffer;
    readonly stderr: Buffer;
    readonly exitCode: number;
  };
}

interface ContainerStatus {
  /** Such as `CONTAINER_RUNNING`. */
  readonly state: string;
  readonly exitCode: number;
  readonly imageRef: string;
}

interface Condition {
  readonly type: string;
  readonly status: boolean;
}

/** A pod with one container that runs. */
export interface Pod {
  readonly containerId: string;
  /** The standard output of a command in the container. @throws Error if it does not exit with 0 */
  exec(...command: readonly string[]): Promise<string>;
  /** Such as `CONTAINER_RUNNING`. */
  state(): Promise<string | undefined>;
  /** What the container has written to its outputs. */
  log(): string;
  /** Sends SIGTERM, and SIGKILL after that many seconds. @returns the exit status */
  stop(seconds: number): Promise<number | undefined>;
  remove(): Promise<void>;
}

const PROTO = join(import.meta.dirname, 'protos/cri.proto');
/** Seconds that a command in a container may take on a busy machine. */
const EXEC_LIMIT = 60;

export class Cri {
  readonly images: Client<ImageService>;
  readonly #runtime: Client<RuntimeService>;
  readonly #daemon: Daemon;
  #pods = 0;

  constructor(daemon: Daemon) {
    const { service } = daemon.client('k8s.io');
    this.images = service<ImageService>(loadService(PROTO, 'runtime.v1.ImageService'));
    this.#runtime = service<RuntimeService>(loadService(PROTO, 'runtime.v1.RuntimeService'));
    this.#daemon = daemon;
  }

  /** containerd answers other calls before its CRI service has read what it knows. */
  ready(): Promise<unknown> {
    return eventually('the CRI service is ready', async () => {
      try {
        const { status } = await this.#runtime.Status({});
        return status?.conditions.some(({ type, status }) => type === 'RuntimeReady' && status);
      } catch (error) {
        if (!isGrpcError(error, 'UNAVAILABLE', 'UNKNOWN', 'UNIMPLEMENTED')) throw error;
        return undefined;
      }
    });
  }

  /** Starts a pod of an image that containerd has: as a kubelet with `imagePullPolicy: Never`. */
  startPod(image: string, command: readonly string[]): Promise<Pod> {
    return this.start({ image: { image }, command });
  }

  /** Starts a pod with one container. @param pid whose processes the container sees */
  async start(container: ContainerConfig, pid: 'CONTAINER' | 'NODE' = 'CONTAINER'): Promise<Pod> {
    const name = `pod-${this.#pods++}`;
    const namespaceOptions = { network: 'NODE', pid, ipc: 'POD' };
    const logDirectory = join(this.#daemon.directory, name);
    const config: PodConfig = {
      metadata: { name, uid: name, namespace: 'test' },
      logDirectory,
      linux: { cgroupParent: this.#daemon.cgroup, securityContext: { namespaceOptions } },
    };
    const { podSandboxId } = await this.#runtime.RunPodSandbox({ config });
    const { resources, securityContext, ...rest } = container;
    const { containerId } = await this.#runtime.CreateContainer({
      podSandboxId,
      config: {
        metadata: { name },
        logPath: 'log',
        ...rest,
        linux: { resources, securityContext: { ...securityContext, namespaceOptions } },
      },
      sandboxConfig: config,
    });
    await this.#runtime.StartContainer({ containerId });
    const status = async () => (await this.#runtime.ContainerStatus({ containerId })).status;
    return {
      containerId,
      exec: async (...cmd) => {
        const { stdout, stderr, exitCode } = await this.#runtime.ExecSync({ containerId, cmd, timeout: EXEC_LIMIT });
        if (exitCode !== 0) throw new Error(`${cmd.join(' ')} exited with ${exitCode}: ${stdout}${stderr}`);
        return stdout.toString();
      },
      state: async () => (await status())?.state,
      log: () => readFileSync(join(logDirectory, 'log'), 'utf8'),
      stop: async (timeout) => {
        await this.#runtime.StopContainer({ containerId, timeout });
        return (await status())?.exitCode;
      },
      remove: async () => {
        await this.#runtime.StopPodSandbox({ podSandboxId });
        await this.#runtime.RemovePodSandbox({ podSandboxId });
      },
    };
  }
}
