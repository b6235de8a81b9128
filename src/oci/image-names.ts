import type { Descriptor } from './descriptor.ts';
import { REF_NAME } from './image-index.ts';

/** The annotation with the full name, which containerd and Docker write beside the tag (containerd, core/images/annotations.go). */
const IMAGE_NAME = 'io.containerd.image.name';

/** The names of an image in an index, the full name first. */
export function namesOf({ annotations }: Descriptor): string[] {
  return [annotations?.[IMAGE_NAME], annotations?.[REF_NAME]].flatMap((name) => name || []);
}

/** The images with the name `wanted`; else those with the same name in Docker's short form; else those with this tag. */
export function imagesCalled(images: readonly Descriptor[], wanted: string): Descriptor[] {
  const whole = familiar(wanted);
  const exact = images.filter((image) => namesOf(image).includes(wanted));
  if (exact.length > 0) return exact;
  const alike = images.filter((image) => namesOf(image).some((name) => familiar(name) === whole));
  return alike.length > 0 ? alike : images.filter((image) => tagOf(image) === wanted);
}

/** The name in an index that `wanted` means, as in `imagesCalled`. `undefined` if there is none, or more than one. */
export function nameLike(images: readonly Descriptor[], wanted: string): string | undefined {
  const names = new Set(imagesCalled(images, wanted).map(({ annotations }) => annotations?.[REF_NAME]));
  const [name] = names;
  return names.size === 1 ? name : undefined;
}

/** Docker's short form of a name: `app:1` for `docker.io/library/app:1`, `app:latest` for `docker.io/library/app`. */
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
