import { openSnapshotter } from '../../src/snapshots/open.ts';

/** `hold-lease.ts ROOT WORKER JOB NAME…`: leases the snapshots, prints a line, and ends when its standard input ends. */
const [root = '', worker = '', job = '', ...names] = process.argv.slice(2);
const store = await openSnapshotter({ root, type: 'overlay' });
const lease = await store.lease(names, { worker, job }, { bytes: 1000, inodes: 10 });
process.stdout.write('held\n');
for await (const _ of process.stdin);
await lease[Symbol.asyncDispose]();
await store.close();
