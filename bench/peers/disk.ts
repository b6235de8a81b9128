import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Entrant } from './contestant.ts';

const PIECE = Buffer.alloc(4 << 20, 'bytes of no meaning ');

/** The disk alone: writes and syncs as many bytes as the tars have. A durable unpacking cannot be faster. */
export function disk(folder: string, bytes: number): Entrant {
  const path = join(folder, 'bytes');
  return {
    name: 'the disk: one write',
    how: 'the bytes of the tars into one file, then fsync',
    enter: async () => ({
      async run() {
        const file = await open(path, 'w');
        try {
          for (let left = bytes; left > 0; left -= PIECE.length)
            await file.write(PIECE.subarray(0, Math.min(left, PIECE.length)));
          await file.sync();
        } finally {
          await file.close();
        }
        return undefined;
      },
      reset: () => rm(path, { force: true }),
    }),
  };
}
