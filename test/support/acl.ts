/** The kinds of entries of an access control list, as the kernel numbers them (linux/posix_acl.h). */
const TAGS = { user: 0x01, 'user:': 0x02, group: 0x04, 'group:': 0x08, mask: 0x10, other: 0x20 } as const;

/**
 * An access control list in the format of its extended attribute (linux/posix_acl_xattr.h), from the text format of
 * acl(5) with numeric IDs: `user::rwx,user:1000:r-x,group::r-x,mask::rwx,other::---`.
 */
export function acl(text: string): Buffer {
  const entries = text.split(',').map((entry) => {
    const [kind = '', id = '', rights = ''] = entry.split(':');
    const tag = TAGS[(id === '' ? kind : `${kind}:`) as keyof typeof TAGS]; // an unknown one is undefined and throws below
    const bytes = Buffer.alloc(8);
    bytes.writeUInt16LE(tag, 0);
    bytes.writeUInt16LE((rights[0] === 'r' ? 4 : 0) | (rights[1] === 'w' ? 2 : 0) | (rights[2] === 'x' ? 1 : 0), 2);
    bytes.writeUInt32LE(id === '' ? 0xffffffff : Number(id), 4);
    return bytes;
  });
  return Buffer.concat([Buffer.from([2, 0, 0, 0]), ...entries]);
}

type Record = readonly [string, Buffer];

/** The PAX records of a default ACL and of an access ACL. */
export const defaultAcl = (text: string): Record => ['SCHILY.xattr.system.posix_acl_default', acl(text)];
export const accessAcl = (text: string): Record => ['SCHILY.xattr.system.posix_acl_access', acl(text)];
