/** The part of the protobuf wire format that containerd's services use: varints, strings, bytes, nested messages. */
export type Field = readonly [number: number, value: string | number | Buffer | Message];
export type Message = readonly Field[];

/** Encodes a message. Repeated fields and maps are given once per value. */
export function encode(message: Message): Buffer {
  return Buffer.concat(
    message.map(([number, value]) => {
      if (typeof value === 'number') return Buffer.concat([varint(number << 3), varint(value)]);
      const bytes = typeof value === 'string' ? Buffer.from(value) : Buffer.isBuffer(value) ? value : encode(value);
      return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
    }),
  );
}

/** A `map<string, string>`, such as labels: a list of messages with a key and a value. */
export const mapField = (number: number, entries: Readonly<Record<string, string>>): Field[] =>
  Object.entries(entries).map(
    ([key, value]): Field => [
      number,
      [
        [1, key],
        [2, value],
      ],
    ],
  );

/** All strings, bytes and nested messages with one field number, in order. */
export function decodeBytes(bytes: Buffer, wanted: number): Buffer[] {
  const found: Buffer[] = [];
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes.readUInt8(at++);
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const tag = next();
    const type = tag & 7;
    if (type === 0) next();
    else if (type === 2) {
      const length = next();
      if (tag >> 3 === wanted) found.push(bytes.subarray(at, at + length));
      at += length;
    } else throw new Error(`a protobuf field of the type ${type}, which no message here has`);
  }
  return found;
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  return Buffer.from([...bytes, rest]);
}
