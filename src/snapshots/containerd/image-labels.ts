import { createHash } from 'node:crypto';
import type { Labels, WireImage } from '../../grpc/services.ts';
import type { ImageRecord, NewImage } from '../images.ts';
import { MAX_LABEL_BYTES } from '../snapshotter.ts';
import { LABEL_IMAGE } from './wire.ts';

/**
 * What this program writes about an image into the labels of containerd's records. A record is an image of containerd, with one
 * label for each platform; the ID of an image, with one label for each name; or the top snapshot of explicit layers, which have
 * no image there. The modules of images in this folder use it.
 */

/** On an image: the digest that it led to when this program made it or moved it, or `FOUND`. */
export const LABEL_MADE = 'unpackd.dev/made';
/** The value of LABEL_MADE on an image that was there, with the same target, before a job recorded it. */
export const FOUND = 'found';
/** The CRI service shows images with this label without looking at them again (containerd, internal/cri/labels). */
export const LABEL_MANAGED = 'io.cri-containerd.image';
/** The CRI service tells the kubelet that an image with this label must stay. */
export const LABEL_PINNED = 'io.cri-containerd.pinned';
export const PINNED = 'pinned';
/** On an image: this program has set LABEL_PINNED there. Without it, the pin is that of another program. */
export const LABEL_OWN_PIN = 'unpackd.dev/pinned';
/**
 * On the ID of an image, before the hash of a name: what the label of that name says too. A pull replaces all labels of the
 * name that it pulls, and changes only single labels of the ID.
 */
export const LABEL_NAME = 'unpackd.dev/name/';

/** Maximum characters of an odd platform. */
const SHOWN = 128;

/** What a label says. The names are short, because a label has little room. */
export interface ImageLabel {
  /** The digests of the manifest, the config and the index, and the chain ID, as far as the image has them. */
  readonly manifest?: string | undefined;
  readonly config?: string | undefined;
  readonly index?: string | undefined;
  readonly chain?: string | undefined;
  /** The name of the image. Absent in labels of explicit layers, and in those of earlier versions. */
  readonly name?: string | undefined;
  /** If it is not the end of the label's key: see `platformKey`. */
  readonly platform?: string | undefined;
  readonly source: string;
  readonly job?: string | undefined;
  /** Milliseconds since 1970, as in ImageRecord. */
  readonly unpacked: number;
  readonly used: number;
  /** Whether the record stands only beside that of a tag: it is made and removed with it. */
  readonly beside?: boolean | undefined;
  /** Of explicit layers, and of a name on an ID. That of a name itself is LABEL_PINNED. */
  readonly pinned?: boolean | undefined;
}

const PLAIN = /^[\w./()+-]{0,128}$/;

/** The end of a label's key for a platform. A config can have any text as its architecture, and a key has little room. */
export function platformKey(platform: string): string {
  return PLAIN.test(platform) ? platform : createHash('sha256').update(platform).digest('hex');
}

/** The key of the label of a name on an ID. Names are longer than a key may be. */
export function nameKey(name: string): string {
  return `${LABEL_NAME}${createHash('sha256').update(name).digest('hex')}`;
}

/** The same label for the ID of the image, where the key is that of the name. */
export function labelOnId(label: ImageLabel, name: string, platform: string, pinned: boolean): ImageLabel {
  return { ...label, name, platform: platform.slice(0, SHOWN), pinned };
}

/** @param earlier what the label has said before; source and job stay as they were until the layers are unpacked again */
export function newLabel(
  { platform, manifestDigest, configDigest, indexDigest, chainId, source, job }: NewImage,
  { unpacked, used }: { readonly unpacked: Date | undefined; readonly used: Date },
  earlier?: ImageLabel,
): ImageLabel {
  const same = earlier?.chain === chainId && earlier?.manifest === manifestDigest ? earlier : undefined;
  const time = unpacked?.getTime() ?? same?.unpacked ?? used.getTime();
  const origin = same?.unpacked === time ? { source: same.source, job: same.job } : { source, job };
  return {
    manifest: manifestDigest,
    config: configDigest,
    index: indexDigest,
    chain: chainId,
    platform: PLAIN.test(platform) ? undefined : platform.slice(0, SHOWN),
    ...origin,
    unpacked: time,
    used: used.getTime(),
  };
}

/** The text of a label. If it is too long, it has no job, and at last no source. */
export function labelText(key: string, label: ImageLabel): string {
  const shorter = [label, { ...label, job: undefined }, { ...label, job: undefined, source: '' }];
  const texts = shorter.map((one) => JSON.stringify(one));
  return texts.find((text) => Buffer.byteLength(key) + Buffer.byteLength(text) <= MAX_LABEL_BYTES) ?? '';
}

/** The labels of this program in a record, by what follows the prefix in their keys. What cannot be read is left out. */
export function readLabels(labels: Labels, prefix = LABEL_IMAGE): Map<string, ImageLabel> {
  const found = new Map<string, ImageLabel>();
  for (const [key, text] of Object.entries(labels)) {
    if (!key.startsWith(prefix)) continue;
    const label = parseLabel(text);
    if (label !== undefined) found.set(key.slice(prefix.length), label);
  }
  return found;
}

/**
 * The labels of an image by platform, without those of an earlier target and those of another name. A program that moves a name
 * to another image possibly leaves the labels there, and `ctr images tag` copies them to the new name.
 */
export function validLabels(image: Pick<WireImage, 'name' | 'labels' | 'target'>): Map<string, ImageLabel> {
  const all = readLabels(image.labels);
  for (const [platform, label] of all) {
    if (!leadsTo(image, label) || (label.name !== undefined && label.name !== image.name)) all.delete(platform);
  }
  return all;
}

/** The labels on the ID of an image by the hash of the name. */
export function labelsOnId({ name, labels }: Pick<WireImage, 'name' | 'labels'>): Map<string, NamedLabel> {
  const found = new Map<string, NamedLabel>();
  for (const [hash, label] of readLabels(labels, LABEL_NAME)) {
    const of = label.name;
    if (of !== undefined && label.config === name && nameKey(of) === `${LABEL_NAME}${hash}`) {
      found.set(hash, { ...label, name: of });
    }
  }
  return found;
}

/** The label of a name on an ID. */
export type NamedLabel = ImageLabel & { readonly name: string };

/** Whether an image is the one of the label: a name can lead to the index or the manifest. */
export function leadsTo({ target }: Pick<WireImage, 'target'>, { index, manifest }: ImageLabel): boolean {
  return target !== null && (target.digest === index || target.digest === manifest);
}

/** @param key of the platform */
export function recordOf(
  reference: string,
  key: string,
  label: ImageLabel,
  pinned = label.pinned === true,
): ImageRecord {
  const { manifest, config, index, chain, source, job, unpacked, used } = label;
  return {
    reference,
    platform: label.platform ?? key,
    chainId: chain,
    manifestDigest: manifest,
    configDigest: config,
    indexDigest: index,
    source,
    job,
    unpacked: new Date(unpacked),
    used: new Date(used),
    pinned,
  };
}

/** Anybody can write a label, so each field is checked. */
function parseLabel(text: string): ImageLabel | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const field = (name: string): unknown => Reflect.get(value, name);
  const optional = (name: string) => {
    const text = field(name);
    return typeof text === 'string' ? text : undefined;
  };
  const [unpacked, used] = [field('unpacked'), field('used')];
  if (typeof unpacked !== 'number' || typeof used !== 'number') return undefined;
  return {
    manifest: optional('manifest'),
    config: optional('config'),
    index: optional('index'),
    chain: optional('chain'),
    name: optional('name'),
    platform: optional('platform'),
    source: optional('source') ?? '',
    job: optional('job'),
    unpacked,
    used,
    beside: field('beside') === true,
    pinned: field('pinned') === true,
  };
}
