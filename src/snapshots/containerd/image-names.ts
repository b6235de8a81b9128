import { UnpackError } from '../../errors.ts';
import { isDigest } from '../../oci/digest.ts';
import { formatImageName, type ImageName, parseImageName } from '../../oci/image-name.ts';
import type { ImageDigests } from '../images.ts';

/** The names in containerd of an image of ours: those that a pull by the CRI service makes too. `images.ts` is the only user. */
export interface Names {
  /** The name from the reference. */
  readonly first: string;
  /** The digest that `first` and `byDigest` lead to: that of an index, else of a manifest. */
  readonly target: string;
  /** `HOST/REPOSITORY@DIGEST`, if `first` is a tag. Without it the CRI service shows no digest of the repository. */
  readonly byDigest: string | undefined;
  /** The digest of the config: the ID of the image for the CRI service. It leads to the manifest. */
  readonly id: string;
}

/**
 * @returns `undefined` for explicit layers, which have no image in containerd
 * @throws UnpackError INVALID_JOB if the reference is no name, or has the digest of another image
 */
export function namesIn(image: ImageDigests): Names | undefined {
  const { reference, manifestDigest, configDigest: id, indexDigest } = image;
  const name = parseImageName(reference);
  if (manifestDigest === undefined || id === undefined) return undefined;
  const top = indexDigest ?? manifestDigest;
  if ('digest' in name.version) {
    const target = name.version.digest;
    if (target !== manifestDigest && target !== indexDigest) throw otherDigest(reference, top);
    return { first: formatImageName(name), target, byDigest: undefined, id };
  }
  if (image.isFurther === true) {
    return { first: digestName(name, manifestDigest), target: manifestDigest, byDigest: undefined, id };
  }
  return { first: formatImageName(name), target: top, byDigest: digestName(name, top), id };
}

/** `HOST/REPOSITORY@DIGEST`. */
export function digestName({ host, repository }: Pick<ImageName, 'host' | 'repository'>, digest: string): string {
  return `${host}/${repository}@${digest}`;
}

/** Whether the name of an image in containerd is an ID of the CRI service. */
export function isId(name: string): boolean {
  return isDigest(name);
}

function otherDigest(reference: string, digest: string): UnpackError {
  return new UnpackError(
    'INVALID_JOB',
    `image ${JSON.stringify(reference)} cannot be recorded in containerd: the unpacked image has the digest ${digest}; write that digest in "image", or a tag`,
  );
}
