import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/** The two packages that `npm pack` makes, each in a project that has nothing but the package and its dependencies. */

const root = join(import.meta.dirname, '../..');
const tsc = join(root, 'node_modules/typescript/bin/tsc');
/** The folder of a package of `node_modules`, in the form of npm. */
const installed = (name: string) => join(root, 'node_modules', name);

const place = scratch();
process.once('exit', () => place[Symbol.dispose]());
const tarballs = join(place.path, 'tarballs');

before(() => {
  // `npm pack` builds first, in a copy, so that this checkout stays as it is
  const checkout = join(place.path, 'checkout');
  mkdirSync(tarballs);
  for (const name of execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  }).split('\0')) {
    if (name !== '' && existsSync(join(root, name))) cpSync(join(root, name), join(checkout, name));
  }
  symlinkSync(join(root, 'node_modules'), join(checkout, 'node_modules'));
  // a checkout in use: settings with secrets
  writeFileSync(join(checkout, 'deploy/kubernetes/base/unpackd.env'), 'AWS_SECRET_ACCESS_KEY=secret');
  pack(checkout);
  pack(join(checkout, 'dist/producer'));
});

function pack(folder: string): void {
  const env = { ...process.env, npm_config_cache: join(place.path, 'cache'), npm_config_update_notifier: 'false' };
  execFileSync('npm', ['pack', '--silent', '--pack-destination', tarballs], { cwd: folder, env });
}

/** Makes a project with a package and its dependencies, as `npm install TARBALL` does. @returns the files of the package */
function install(project: string, name: string): string[] {
  const target = join(project, 'node_modules', name);
  mkdirSync(target, { recursive: true });
  const { version } = read(join(root, 'package.json'));
  execFileSync('tar', ['-xzf', join(tarballs, `${name}-${version}.tgz`), '-C', target, '--strip-components=1']);
  const copied = new Set<string>();
  const pending = Object.keys(read(join(target, 'package.json')).dependencies ?? {});
  for (const dependency of pending) {
    if (copied.has(dependency) || !existsSync(installed(dependency))) continue; // optional ones can be absent
    copied.add(dependency);
    cpSync(installed(dependency), join(project, 'node_modules', dependency), { recursive: true });
    const { dependencies = {}, optionalDependencies = {} } = read(join(installed(dependency), 'package.json'));
    pending.push(...Object.keys({ ...dependencies, ...optionalDependencies }));
  }
  return readdirSync(target, { recursive: true, encoding: 'utf8' }).filter((path) =>
    statSync(join(target, path)).isFile(),
  );
}

/** The fields of a package.json that are used here. */
interface Description {
  readonly version: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

function read(path: string): Description {
  return JSON.parse(readFileSync(path, 'utf8'));
}

describe('unpackd', () => {
  const project = join(place.path, 'worker');
  let files: string[] = [];
  before(() => {
    files = install(project, 'unpackd');
  });

  test('has programs, types, schemas and docs, and nothing else', () => {
    assert.ok(files.length < 500, `${files.length} files`);
    const unexpected = files.filter(
      (path) =>
        !/^(dist\/(src|workers|producer)\/|dist\/unpackd$|dist\/THIRD-PARTY-NOTICES$|deploy\/|docs\/|schemas\/|package\.json$|README|LICENSE)/.test(
          path,
        ),
    );
    assert.deepEqual(unexpected, []);
    assert.ok(files.includes('deploy/systemd/unpackd-worker.service'));
    assert.ok(!files.some((path) => path.endsWith('/unpackd.env')));
    for (const folder of ['dist', 'dist/producer']) assert.ok(files.includes(`${folder}/THIRD-PARTY-NOTICES`));
    assert.deepEqual(
      files.filter((path) => /\.map$|(?<!\.d)\.ts$/.test(path)),
      [],
    );
  });

  test('has a command that unpacks an image', async () => {
    mkdirSync(join(project, 'node_modules/.bin'));
    symlinkSync('../unpackd/dist/unpackd', join(project, 'node_modules/.bin/unpackd'));
    const command = join(project, 'node_modules/.bin/unpackd');
    const image = imageOf([layerOf(tar(file('hello', 'world')))]);
    await writeLayout(join(project, 'layout'), { app: image });
    const args = ['apply', `${project}/layout:app`, '--root', `${project}/store`, '--json', '--ownership', 'squash'];
    const env = { ...process.env, PATH: `${join(process.execPath, '..')}:${process.env.PATH}` };
    const result = JSON.parse(execFileSync(command, args, { encoding: 'utf8', env }));
    assert.equal(result.images[0].chainId, image.chainId);
  });

  test('has the public API', () => {
    const program = "import { UnpackQueue } from 'unpackd'; console.log(typeof UnpackQueue);";
    writeFileSync(join(project, 'api.mjs'), program);
    assert.equal(execFileSync(process.execPath, [join(project, 'api.mjs')], { encoding: 'utf8' }), 'function\n');
  });
});

describe('unpackd-producer', () => {
  const project = join(place.path, 'producer');
  let redis: LocalRedis;
  before(async () => {
    install(project, 'unpackd-producer');
    redis = await startRedis();
  });
  after(() => redis.stop());

  /** Adds a job, reads its state, cancels it, and fails for a job that is not there. */
  const body = `
const payload: Payload = {
  version: 1,
  image: 'registry.example/team/app:1.0',
  source: { bucket: 'images', prefix: 'team/app', layout: 'oci' },
  tag: '1.0',
};
const main = async (): Promise<void> => {
  const queue = new UnpackQueue(queueSettings());
  const { id } = await queue.add(payload);
  const { state } = await queue.status(id);
  const cancelled: boolean = await queue.cancel(id);
  const missing = await queue.status('nobody').catch((error: unknown) => error instanceof JobNotFoundError);
  console.log(state, cancelled, missing);
  await queue.close();
};
main();
`;
  const names = 'JobNotFoundError, queueSettings, UnpackQueue';
  const run = (path: string) =>
    execFileSync(process.execPath, [path], {
      encoding: 'utf8',
      cwd: project,
      env: { PATH: process.env.PATH, REDIS_URL: redis.url },
    });

  for (const [kind, extension] of [
    ['ES modules', 'mts'],
    ['CommonJS', 'cts'],
  ] as const) {
    test(`works in TypeScript, as ${kind}`, () => {
      for (const name of ['@types', 'undici-types']) {
        cpSync(installed(name), join(project, 'node_modules', name), { recursive: true });
      }
      const source = join(project, `app.${extension}`);
      writeFileSync(source, `import { ${names}, type Payload } from 'unpackd-producer';\n${body}`);
      const options = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--types', 'node', '--skipLibCheck'];
      execFileSync(process.execPath, [tsc, ...options, source], {
        cwd: project,
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      assert.equal(run(source.replace(/ts$/, 'js')), 'waiting true true\n');
    });
  }

  test('works in plain JavaScript, imported and required', () => {
    const plain = body.replace(/: (Payload|Promise<void>|boolean|unknown)/g, '');
    writeFileSync(join(project, 'plain.mjs'), `import { ${names} } from 'unpackd-producer';\n${plain}`);
    writeFileSync(join(project, 'plain.cjs'), `const { ${names} } = require('unpackd-producer');\n${plain}`);
    for (const path of ['plain.mjs', 'plain.cjs']) assert.equal(run(path), 'waiting true true\n');
  });

  test('reports a wrong field to the compiler, and describes each field', () => {
    const source = join(project, 'wrong.mts');
    writeFileSync(
      source,
      "import type { Payload } from 'unpackd-producer';\nexport const wrong: Payload['tags'] = 1;\n",
    );
    const options = ['--strict', '--module', 'nodenext', '--noEmit', '--types', 'node', '--skipLibCheck'];
    assert.throws(() => execFileSync(process.execPath, [tsc, ...options, source], { cwd: project, stdio: 'pipe' }));
    const types = readFileSync(join(project, 'node_modules/unpackd-producer/queue/formats.d.ts'), 'utf8');
    const payload = /interface Payload \{(.*?)\n\}/s.exec(types)?.[1] ?? '';
    const fields = payload.split('\n').filter((line) => /^\s+readonly /.test(line));
    assert.ok(fields.length > 20);
    const lines = payload.split('\n');
    const bare = fields.filter((line) => !lines[lines.indexOf(line) - 1]?.trim().endsWith('*/'));
    assert.deepEqual(bare, []);
  });

  test('has the schemas, and is small', () => {
    const program = "console.log(require('unpackd-producer/schemas/payload.schema.json').title)";
    writeFileSync(join(project, 'schema.cjs'), program);
    assert.equal(run('schema.cjs'), 'Payload of an unpack job\n');
    const names = readdirSync(join(project, 'node_modules'));
    assert.deepEqual(
      names.filter((name) => ['koffi', '@aws-sdk', 'fastify', 'zod', '@grpc'].includes(name)),
      [],
    );
    const [kib] = execFileSync('du', ['-sk', 'node_modules'], { cwd: project, encoding: 'utf8' }).split('\t');
    // the types of Node, which the tests above have added, are not part of it
    const [types] = execFileSync('du', ['-ck', 'node_modules/@types', 'node_modules/undici-types'], {
      cwd: project,
      encoding: 'utf8',
    })
      .trim()
      .split('\n')
      .slice(-1)
      .map((line) => Number.parseInt(line, 10));
    assert.ok(Number(kib) - (types ?? 0) < 25 * 1024, `${kib} KiB`);
  });
});
