import type { MemberInflater } from './members.ts';

/** Fixed inputs of the known-answer tests for native decompressors (zstd-native.ts, isal.ts), and their output. */
const TEXT = Array.from({ length: 64 }, (_, index) => index * index)
  .join(' ')
  .repeat(2);

/** A frame with a compressed block and a checksum, as `zstd -19 --check` writes it. */
export const KNOWN_ZSTD = Buffer.from(
  'KLUv/WQiAXUEABbRIAmw6yRJiHDOmEUcAB0AHQAAMimWxmedpk87HT/iIpzlAJy20CdTPJ34LXMIdOXTchryM+BS4KQb4KbYYvW1pqKnNNV8' +
    'ncVkihwwnSBdIPpBO5F9Cp3i+IlxoeI04gDE2eEiwo+CB0cXi1jMVgxAMU1ioYhPGlMwnkJMvH5gXaA6gToEAQARDhTqmgJnmlwH',
  'base64',
);

/** A member with dynamic Huffman codes, as `gzip -9` writes it. */
export const KNOWN_GZIP = Buffer.from(
  'H4sIAAAAAAACA+2QwQ0EQQjDWnEJBJjM0H9jK57Xw/0QiNhKIJpBJg9lenDzhCJQCnUjDxqTechj8g2VTVl0BN2iX3NyONc4D77m5nBf81pM' +
    'BOPNzUbxBukYbaZyjGopvbizXK+A1+S60et1KJOxFlrjjCErmuwQeSJI73R39/Y6MrUfpfJKD1Vuqp+oZdRNUa+bGk/8C/kt5AP0W97XIgIA' +
    'AA==',
  'base64',
);

/** Number of bytes after the input, which the decompressor must not consume. */
const AFTER = 9;

/**
 * Whether an inflater produces the known text from `packed`, detects the last byte of the input, and does not consume
 * bytes after it. Frees the inflater.
 */
export function givesKnownAnswer(inflater: MemberInflater, packed: Buffer): boolean {
  const input = Buffer.concat([packed, Buffer.alloc(AFTER)]);
  const output = Buffer.alloc(4096);
  try {
    inflater.input(input);
    inflater.output(output);
    const ended = inflater.runHere();
    return ended && inflater.unread === AFTER && output.toString('latin1', 0, output.length - inflater.room) === TEXT;
  } finally {
    inflater.free();
  }
}
