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

interface PodConfig {
  readonly metadata: object;
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
  ContainerStatus(request: { readonly containerId: string }): {
    readonly status: { readonly state: string; readonly imageRef: string } | null;
  };
  ExecSync(request: { readonly containerId: string; readonly cmd: readonly string[]; readonly timeout: number }): {
    readonly stdout: Buffer;
    readonly stderr: Buffer;
    readonly exitCode: number;
  };
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
  async startPod(image: string, command: readonly string[]): Promise<Pod> {
    const name = `pod-${this.#pods++}`;
    const namespaceOptions = { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' };
    const config: PodConfig = {
      metadata: { name, uid: name, namespace: 'test' },
      linux: { cgroupParent: this.#daemon.cgroup, securityContext: { namespaceOptions } },
    };
    const { podSandboxId } = await this.#runtime.RunPodSandbox({ config });
    const { containerId } = await this.#runtime.CreateContainer({
      podSandboxId,
      config: { metadata: { name }, image: { image }, command, linux: { securityContext: { namespaceOptions } } },
      sandboxConfig: config,
    });
    await this.#runtime.StartContainer({ containerId });
    return {
      containerId,
      exec: async (...cmd) => {
        const { stdout, stderr, exitCode } = await this.#runtime.ExecSync({ containerId, cmd, timeout: EXEC_LIMIT });
        if (exitCode !== 0) throw new Error(`${cmd.join(' ')} exited with ${exitCode}: ${stderr}`);
        return stdout.toString();
      },
      state: async () => (await this.#runtime.ContainerStatus({ containerId })).status?.state,
      remove: async () => {
        await this.#runtime.StopPodSandbox({ podSandboxId });
        await this.#runtime.RemovePodSandbox({ podSandboxId });
      },
    };
  }
}
