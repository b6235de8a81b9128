import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { MAIN } from '../cli/run-cli.ts';
import { runChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const CAPABILITIES = ['chown', 'dac_override', 'fowner', 'fsetid', 'mknod', 'setfcap', 'sys_admin'];

test('a worker in a container, where the store has another path, sees which images the host has mounted', async () => {
  using place = scratch();
  const path = (name: string) => join(place.path, name);
  const run = (program: string, ...args: string[]) => {
    const { status, stdout, stderr } = runChild(program, args);
    assert.equal(status, 0, `${stdout}${stderr}`);
    return stdout;
  };
  for (const name of ['store', 'container', 'tree']) mkdirSync(path(name));
  await writeLayout(path('layout'), {
    used: imageOf([layerOf(tar(file('used')))]),
    idle: imageOf([layerOf(tar(file('idle')))]),
  });
  for (const tag of ['used', 'idle'])
    run(process.execPath, MAIN, 'apply', `${path('layout')}:${tag}`, '--root', path('store'));
  // the first image has the first number; an overlay that is only read needs two layers
  const layers = `lowerdir=${path('store')}/snapshots/1/fs:${path('layout')}`;
  run('mount', '-t', 'overlay', '-o', `ro,${layers}`, 'overlay', path('tree'));
  try {
    // the path of the host leads nowhere there, and a process with few capabilities may not look at others'
    const script = `umount "$3" && mount --bind "$1" "$2" && mount -t tmpfs tmpfs "$1" && shift 3 && exec setpriv --bounding-set=-all,${CAPABILITIES.map((name) => `+${name}`).join()} "$@"`;
    const collect = [process.execPath, MAIN, 'gc', '--until', '99%', '--root', path('container')];
    const told = run(
      'unshare',
      '--mount',
      'sh',
      '-c',
      script,
      'sh',
      path('store'),
      path('container'),
      path('tree'),
      ...collect,
    );
    assert.match(told, /^removed .*:idle /m);
    assert.match(told, /:used .* mounted at /);
  } finally {
    run('umount', path('tree'));
  }
});
