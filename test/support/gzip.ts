import { crc32, deflateRawSync } from 'node:zlib';

/**
 * A gzip member whose header has the fields of these flags (RFC 1952, 2.3). Bit 0 adds no field.
 */
export function memberWithFields(content: Buffer, flags: number): Buffer {
  const fields = [Buffer.from([0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255])];
  if ((flags & 4) !== 0) fields.push(Buffer.from([7, 0, 0x53, 0x47, 3, 0, 1, 2, 3]));
  if ((flags & 8) !== 0) fields.push(Buffer.from('a name\0'));
  if ((flags & 16) !== 0) fields.push(Buffer.from('a comment\0'));
  const check = Buffer.alloc(2);
  check.writeUInt16LE(crc32(Buffer.concat(fields)) & 0xffff);
  if ((flags & 2) !== 0) fields.push(check);
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(content), 0);
  trailer.writeUInt32LE(content.length, 4);
  return Buffer.concat([...fields, deflateRawSync(content), trailer]);
}
