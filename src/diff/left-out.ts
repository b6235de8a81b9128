import { showName, type TarEntry } from '../archive/entry.ts';

/** Maximum number of kinds of warnings that are reported. An archive can contain any number of kinds. */
const MAX_KINDS = 20;

/** Why an extended attribute was not set. */
export type XattrReason = keyof typeof XATTR_REASONS;

const XATTR_REASONS = {
  reserved: 'layers are not allowed to set it',
  empty: 'it has no value, and a native store could not copy it',
  unsupported: 'the file system does not support attributes of this kind',
  privileged: 'only root can set it',
  impossible: 'the kernel does not accept this name or value',
  notCarried: 'only files and directories can have it',
} as const;

/**
 * Sentences for the job's result about the parts of a layer that were not written. The first sentence of each kind is
 * kept, and the others are only counted.
 */
export class LeftOut {
  private readonly kinds = new Map<string, { readonly sentence: string; count: number }>();
  private others = 0;

  /** @param user the numeric ID of the user that owns the file instead */
  owner({ name, uid, gid }: TarEntry, user: number): void {
    this.add(
      `left out the owner of ${showName(name)} (${uid}:${gid}): with UNPACK_OWNERSHIP=squash all files belong to user ${user}`,
    );
  }

  /** Rights of the owner were added to the mode that the entry has. */
  mode({ name, mode }: TarEntry): void {
    this.add(
      `added rights of the owner to ${showName(name)} (mode ${mode.toString(8).padStart(4, '0')}): without them a native store could not copy it`,
    );
  }

  device({ name, type, devMajor, devMinor }: TarEntry): void {
    this.add(
      `left out the device ${showName(name)} (${type} ${devMajor}:${devMinor}): with UNPACK_OWNERSHIP=squash no devices are made`,
    );
  }

  /** @param key bytes as latin1 */
  xattr({ name }: TarEntry, key: string, reason: XattrReason): void {
    const shown = showName(Buffer.from(key, 'latin1')).slice(1, -1);
    this.add(`left out the extended attribute ${shown} of ${showName(name)}: ${XATTR_REASONS[reason]}`);
  }

  sentences(): string[] {
    const all = [...this.kinds.values()].map(({ sentence, count }) =>
      count === 1 ? sentence : `${sentence} (and ${count - 1} more like this)`,
    );
    if (this.others > 0) all.push(`left out ${this.others} more things of other kinds`);
    return all;
  }

  /** The text up to the first quotation mark is the kind. */
  private add(sentence: string): void {
    const kind = sentence.slice(0, sentence.indexOf('"'));
    const known = this.kinds.get(kind);
    if (known !== undefined) known.count++;
    else if (this.kinds.size < MAX_KINDS) this.kinds.set(kind, { sentence, count: 1 });
    else this.others++;
  }
}
