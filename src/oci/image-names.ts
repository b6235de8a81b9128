import type { Descriptor } from './descriptor.ts';
import { REF_NAME } from './image-index.ts';

/** The whole name that containerd and Docker write beside the tag (containerd, core/images/annotations.go). */
const IMAGE_NAME = 'io.containerd.image.name';

/** The whole name first. */
export function namesOf({ annotations }: Descriptor): string[] {
  return [annotations?.[IMAGE_NAME], annotations?.[REF_NAME]].flatMap((name) => name || []);
}

export function imagesCalled(images: readonly Descriptor[], wanted: string): Descriptor[] {
  const whole = familiar(wanted);
  const exact = images.filter((image) => namesOf(image).includes(wanted));
  if (exact.length > 0) return exact;
  const alike = images.filter((image) => namesOf(image).some((name) => familiar(name) === whole));
  return alike.length > 0 ? alike : images.filter((image) => tagOf(image) === wanted);
}

/**
 * The name in a layout that `wanted` means: itself, the same in Docker's short form, or the only one that ends with that
 * tag; `undefined` where there is none.
 */
export function nameLike(images: readonly Descriptor[], wanted: string): string | undefined {
  const names = new Set(imagesCalled(images, wanted).map(({ annotations }) => annotations?.[REF_NAME]));
  const [name] = names;
  return names.size === 1 ? name : undefined;
}

/** As Docker says it: `docker.io/library/app:1` is `app:1`, and so is `app` with the tag that a missing one means. */
function familiar(name: string): string {
  const short = name.replace(/^(index\.)?docker\.io\/(library\/)?/, '');
  return /[:@][^/]*$/.test(short) || !name.includes('/') ? short : `${short}:latest`;
}

/** The tag in an image's name: all of `v1`, the end of `example.com:5000/app:v1`, none in `example.com/app@sha256:…`. */
export function tagOf(image: Descriptor): string | undefined {
  for (const name of [image.annotations?.[REF_NAME], image.annotations?.[IMAGE_NAME]]) {
    const undigested = name?.replace(/@[^/]*$/, '');
    if (!undigested) continue;
    const tag = /:([^/:]+)$/.exec(undigested)?.[1] ?? (/[/@]/.test(name ?? '') ? undefined : undigested);
    if (tag !== undefined) return tag;
  }
  return undefined;
}
