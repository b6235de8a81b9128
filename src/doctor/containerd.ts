import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import type { Marks } from '../collector/free-space.ts';
import { isMissing, makeRoomIn } from '../errno.ts';
import type { Address } from '../grpc/client.ts';
import { loadService } from '../grpc/definitions.ts';
import { GrpcError } from '../grpc/errors.ts';
import { storeError } from '../snapshots/containerd/errors.ts';
import { type FoundSnapshotter, findSnapshotter } from '../snapshots/containerd/plugin.ts';
import { probeSnapshotter } from '../snapshots/containerd/probe.ts';
import { diskOf } from '../system/space.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';
import { type KnownSocket, type RunningContainerd, refusal, tryOut, withContainerd } from './containerd-daemon.ts';
import { nearestFolder, space } from './store.ts';

/** Checks of a store that is a client of containerd (UNPACK_SNAPSHOTTER=containerd), for `unpackd doctor`. */

/** The namespace of the CRI plugin, which serves the kubelet (containerd, internal/cri/constants). */
const OF_KUBERNETES = 'k8s.io';

/**
 * Checks that a worker can unpack into this containerd. As the opening of the store does, it writes a file into a new snapshot,
 * to see whether the directories of containerd are the same ones here, and removes it.
 * @param snapshotter the setting UNPACK_CONTAINERD_SNAPSHOTTER
 * @param known the sockets to look for if there is none at `address`
 */
export function checkContainerd(
  address: Address,
  snapshotter: string,
  known?: readonly KnownSocket[],
): Promise<readonly Check[]> {
  const { socket, namespace } = address;
  const check = async (daemon: RunningContainerd): Promise<readonly Check[]> => {
    const answers = ok('containerd', `${daemon.version} at ${socket}; it needs no configuration`);
    let found: FoundSnapshotter;
    try {
      found = await findSnapshotter(daemon.client, { socket, snapshotter });
    } catch (error) {
      return [answers, refusal('Snapshotter', error)];
    }
    return [
      answers,
      snapshotterCheck(snapshotter, found.capabilities),
      namespaceCheck(namespace, daemon.namespaces),
      ...(await directory(daemon, snapshotter, found)),
      ...(namespace === OF_KUBERNETES ? [await kubernetes(daemon, found.root)] : []),
    ];
  };
  return withContainerd(address, check, known);
}

function snapshotterCheck(name: string, capabilities: readonly string[]): Check {
  const parents = capabilities.includes('rebase')
    ? 'with the capability rebase, so a layer gets its parent when it is committed'
    : 'without the capability rebase, so each layer is renamed onto its parent when it is committed';
  return ok('Snapshotter', `${name}, ${parents}; layers are unpacked in parallel`);
}

function namespaceCheck(namespace: string, all: readonly string[]): Check {
  const name = 'Namespace';
  if (all.includes(namespace)) return ok(name, `${namespace} exists`);
  const others = all.length === 0 ? 'there is none yet' : `there are: ${all.join(', ')}`;
  const advice =
    namespace === OF_KUBERNETES
      ? 'this is in order before the first pod; for ctr and nerdctl, set UNPACK_CONTAINERD_NAMESPACE=default'
      : 'check UNPACK_CONTAINERD_NAMESPACE; the first job makes this namespace';
  return warn(name, `${namespace} does not exist; ${others}`, advice);
}

/** Checks that this process writes into the same directories as containerd, and that they have space. */
async function directory(
  daemon: RunningContainerd,
  snapshotter: string,
  { root, capabilities }: FoundSnapshotter,
): Promise<readonly Check[]> {
  const name = 'Directory';
  try {
    const place = { ...daemon.address, snapshotter, root, canRebase: capabilities.includes('rebase') };
    const state = { id: randomBytes(8).toString('hex') };
    const tried = await tryOut(daemon, ({ client, lease }) => probeSnapshotter(client, place, state, { id: lease }));
    const disk = await diskOf(root);
    const what = tried === undefined ? 'is here' : 'is the same directory here as for containerd';
    return [ok(name, `${root} ${what}`), space(disk, disk.totalBytes, makeRoomIn('containerd'))];
  } catch (error) {
    if (!isMissing(error)) return [refusal(name, storeError(error, daemon.address.socket))];
    return [fail(name, `${root} of containerd is not here`, 'mount it at the same path, from the same file system')];
  }
}

/** Checks the directory of the files of locks and leases. @param root the setting UNPACK_ROOT */
export async function checkState(root: string): Promise<Check> {
  const name = 'State';
  try {
    await access(await nearestFolder(root), constants.W_OK);
    return ok(name, `files of locks and leases are in ${root}/containerd`);
  } catch (error) {
    return fail(name, reason(error), 'run as root, or use another folder (UNPACK_ROOT)');
  }
}

/** Says who collects. @param marks as UNPACK_GC_LOW and UNPACK_GC_HIGH set them */
export function checkCollection(marks: Marks | undefined): Check {
  const name = 'Garbage collection';
  const finding =
    "containerd's: it removes what no image needs, and the kubelet removes images, but not those that are pinned";
  if (marks === undefined) return ok(name, finding);
  return warn(name, finding, 'unset UNPACK_GC_LOW and UNPACK_GC_HIGH, which have no effect with containerd');
}

/** What the kubelet asks its runtime (cri-api, runtime/v1, ImageService). */
interface ImageService {
  ImageFsInfo(request: object): {
    readonly imageFilesystems: readonly { readonly fsId: { readonly mountpoint: string } | null }[];
  };
}

/** Checks that the kubelet's images use the same snapshotter, and that its containerd knows pinned images. */
async function kubernetes({ client, version }: RunningContainerd, root: string): Promise<Check> {
  const name = 'Kubernetes';
  let used: string | undefined;
  try {
    const service = client.service<ImageService>(loadService('cri.proto', 'runtime.v1.ImageService'));
    const { imageFilesystems } = await service.ImageFsInfo({}, { deadline: 5000 });
    used = imageFilesystems[0]?.fsId?.mountpoint;
  } catch (error) {
    if (!(error instanceof GrpcError)) throw error;
    const finding =
      error.code === 'UNIMPLEMENTED'
        ? 'this containerd serves no kubelet, because its CRI plugin is disabled'
        : `the CRI plugin of this containerd does not answer: ${error.details}`;
    return warn(
      name,
      finding,
      'for ctr and nerdctl, set UNPACK_CONTAINERD_NAMESPACE=default; for Kubernetes, remove cri from disabled_plugins',
    );
  }
  if (used !== root) {
    return fail(
      name,
      `the kubelet's images are in ${used ?? 'no directory'}, and those of unpackd would be in ${root}`,
      "set UNPACK_CONTAINERD_SNAPSHOTTER to the snapshotter of the CRI plugin in containerd's configuration",
    );
  }
  if (!knowsPins(version)) {
    return warn(
      name,
      `the kubelet uses this snapshotter; the CRI plugin of ${version} does not know pinned images`,
      'upgrade to 1.6.25, 1.7.10 or newer, else the kubelet also removes images that unpackd images pin has marked',
    );
  }
  return ok(name, 'the kubelet uses this snapshotter, and its containerd knows pinned images');
}

/**
 * Whether the CRI plugin reports the label of pinned images, whichever name of an image has it: since 1.6.25 and 1.7.10
 * (containerd #9382, #8867). Nothing but the version tells.
 */
function knowsPins(version: string): boolean {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  if (major !== 1) return major > 1;
  if (minor === 6) return patch >= 25;
  return minor > 7 || (minor === 7 && patch >= 10);
}
