import { closeSync, openSync } from 'node:fs';
import { S3Clients } from '../../src/source/s3-clients.ts';

/** Asks for an S3 client where no file can be opened, and again where files can: prints what came of each. */
const clients = new S3Clients();
const connection = {
  region: 'here',
  endpoint: 'http://127.0.0.1:1',
  forcePathStyle: true,
  connectTimeout: 1,
  idleTimeout: 1,
  maxResumes: 0,
};
const ask = (): Promise<string> =>
  clients.get(connection).then(
    () => 'a client',
    () => 'none',
  );

const files: number[] = [];
try {
  for (;;) files.push(openSync('/dev/null', 'r'));
} catch {}
const without = await ask();
for (const file of files) closeSync(file);
process.stdout.write(`${without}, ${await ask()}`);
clients.close();
