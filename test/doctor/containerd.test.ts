import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Check } from '../../src/doctor/check.ts';
import { checkContainerd } from '../../src/doctor/containerd.ts';
import { checkProxySnapshotter, proxyConfiguration } from '../../src/doctor/proxy-snapshotter.ts';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { runCli } from '../cli/run-cli.ts';
import { Cri } from '../containerd/cri.ts';
import {
  type ContainerdProgram,
  Daemon,
  PROGRAMS,
  skipWithoutContainerd,
  skipWithoutContainers,
} from '../containerd/daemon.ts';
import { SnapshotterProcess } from '../proxy/served.ts';
import { startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { type Disk, tmpfs, unavailable } from '../support/file-system.ts';
import { inNamespace } from '../support/mount-namespace.ts';
import { scratch } from '../support/scratch.ts';

const byName = (checks: readonly Check[]) => new Map(checks.map((check) => [check.name, check]));
const OVERLAYFS = 'io.containerd.snapshotter.v1.overlayfs';

/** A disk with so much space that the doctor finds it enough, however full the disks of this machine are. */
const roomy = () => tmpfs('size=8g,nr_inodes=1m');

for (const program of PROGRAMS) {
  describe(`the doctor checks containerd ${program.version}`, {
    skip: skipWithoutContainerd() || unavailable(roomy),
  }, () => {
    let disk: Disk;
    let daemon: Daemon;
    let client: ContainerdClient;
    before(async () => {
      disk = roomy();
      daemon = await Daemon.start(program, {
        below: disk.path,
        configuration: `
[proxy_plugins.unpackd]
  type = "snapshot"
  address = "/run/unpackd-test/none.sock"
[proxy_plugins.other]
  type = "snapshot"
  address = "/run/unpackd-test/other.sock"
  capabilities = ["rebase"]
`,
      });
      client = connectContainerd({ socket: daemon.socket, namespace: 'here' });
    });
    after(async () => {
      client.close();
      await daemon[Symbol.asyncDispose]();
      disk[Symbol.dispose]();
    });
    const look = async (namespace: string, snapshotter = 'overlayfs') =>
      byName(await checkContainerd({ socket: daemon.socket, namespace }, snapshotter));

    test('one without a namespace is in order, and no namespace is made', async () => {
      const checks = await look('k8s.io');
      assert.equal(
        checks.get('containerd')?.finding,
        `${program.version} at ${daemon.socket}; it needs no configuration`,
      );
      assert.match(checks.get('Namespace')?.finding ?? '', /^k8s\.io does not exist; there is none yet$/);
      assert.equal(checks.get('Directory')?.status, 'ok');
      assert.deepEqual((await client.namespaces.List({})).namespaces, []);
    });

    test('one with the namespace is in order, and nothing is left in it', async () => {
      await client.namespaces.Create({ namespace: { name: 'here' } });
      const checks = await look('here');
      assert.match(checks.get('Space')?.finding ?? '', / free/);
      assert.deepEqual(
        [...checks].map(([name, { status }]) => [name, status]),
        ['containerd', 'Snapshotter', 'Namespace', 'Directory', 'Space'].map((name) => [name, 'ok']),
      );
      const root = join(daemon.directory, 'root', OVERLAYFS);
      assert.equal(checks.get('Directory')?.finding, `${root} is the same directory here as for containerd`);
      const { plugins } = await client.introspection.Plugins({ filters: ['id==overlayfs'] });
      const rebase = plugins[0]?.capabilities.includes('rebase') ? 'with' : 'without';
      assert.match(
        checks.get('Snapshotter')?.finding ?? '',
        new RegExp(`^overlayfs, ${rebase} the capability rebase, `),
      );
      assert.deepEqual((await client.leases.List({})).leases, []);
      for await (const { info } of client.snapshots.List({ snapshotter: 'overlayfs' })) assert.deepEqual(info, []);
    });

    test('the command runs these checks', async () => {
      const checks = await cliDoctor(
        '--snapshotter',
        'containerd',
        '--containerd-socket',
        daemon.socket,
        '--containerd-namespace',
        'here',
        '--root',
        join(disk.path, 'state'),
      );
      for (const name of [
        'containerd',
        'Snapshotter',
        'Namespace',
        'Directory',
        'Space',
        'State',
        'Garbage collection',
      ]) {
        assert.equal(checks.get(name)?.status, 'ok', name);
      }
      assert.equal(checks.has('Store'), false);
    });

    test('another namespace is a warning that names those that exist', async () => {
      const namespace = (await look('elsewhere')).get('Namespace');
      assert.equal(namespace?.status, 'warn');
      assert.equal(namespace?.finding, 'elsewhere does not exist; there are: here');
      assert.deepEqual(
        (await client.namespaces.List({})).namespaces.map(({ name }) => name),
        ['here'],
      );
    });

    test('a snapshotter that is missing, or is another program, is a failure', async () => {
      const missing = (await look('here', 'overlay')).get('Snapshotter');
      assert.equal(missing?.status, 'fail');
      assert.match(missing?.finding ?? '', /overlay is none of its snapshotters$/);
      assert.match(missing?.advice ?? '', /UNPACK_CONTAINERD_SNAPSHOTTER \(running are .*overlayfs/);
      const proxy = (await look('here', 'unpackd')).get('Snapshotter');
      assert.equal(proxy?.status, 'fail');
      assert.match(proxy?.finding ?? '', /unpackd is another program, at \/run\/unpackd-test\/none\.sock$/);
    });

    test('a socket elsewhere is found and named', async () => {
      const socket = join(daemon.directory, 'none.sock');
      const known = [{ path: daemon.socket, of: 'K3s or RKE2' }];
      const [check, ...others] = await checkContainerd({ socket, namespace: 'here' }, 'overlayfs', known);
      assert.deepEqual(others, []);
      assert.equal(check?.status, 'fail');
      assert.equal(check?.finding, `${socket} does not exist`);
      assert.equal(check?.advice, `set UNPACK_CONTAINERD_SOCKET; here are: ${daemon.socket} (K3s or RKE2)`);
    });

    // a container with the directory of the socket mounted, and not that of containerd's root, or another one there
    for (const [what, hide, finding] of [
      ['missing', (root: string) => `mount -t tmpfs tmpfs ${root}`, / is not here what it is for containerd$/],
      ['another one', (root: string) => `mount -t tmpfs tmpfs ${root}/${OVERLAYFS}`, / is not here what it is for /],
      ['read-only', (root: string) => `mount --bind -o ro ${root} ${root}`, /EROFS|read-only/],
    ] as const) {
      test(`a directory of containerd that is ${what} here is a failure`, async () => {
        await using namespace = await inNamespace(hide(join(daemon.directory, 'root')));
        const check = (await checksIn(namespace.pid, daemon.socket)).get('Directory');
        assert.equal(check?.status, 'fail');
        assert.match(check?.finding ?? '', finding);
        assert.notEqual(check?.advice, undefined);
        for await (const { info } of client.snapshots.List({ snapshotter: 'overlayfs' })) assert.deepEqual(info, []);
      });
    }

    const lookAtProxy = async (served: string) =>
      byName(await checkProxySnapshotter({ socket: daemon.socket, namespace: 'here' }, served, '/var/lib/unpackd')).get(
        'Proxy snapshotter',
      );

    test('a proxy snapshotter that containerd does not know fails with the lines to add', async () => {
      const check = await lookAtProxy('/run/unpackd/snapshotter.sock');
      assert.equal(check?.status, 'fail');
      assert.deepEqual(
        check?.lines,
        proxyConfiguration(program.version, '/run/unpackd/snapshotter.sock', '/var/lib/unpackd'),
      );
      await assertUnderstood(program, check?.lines ?? []);
    });

    test('a proxy snapshotter that does not run, or has a wrong configuration, is not in order', async () => {
      const check = await lookAtProxy('/run/unpackd-test/none.sock');
      const later = !daemon.version.startsWith('1.');
      assert.equal(check?.status, later ? 'warn' : 'fail');
      assert.match(check?.finding ?? '', later ? /has no root as root of unpackd/ : /as unpackd, but cannot use it: /);
      if (later) {
        const other = await lookAtProxy('/run/unpackd-test/other.sock');
        assert.match(other?.finding ?? '', /gives other the capability rebase/);
      }
    });
  });

  describe(`the doctor checks the store as a snapshotter of containerd ${program.version}`, {
    skip: skipWithoutContainerd(),
  }, () => {
    test('with the lines that it prints, containerd knows and reaches it', async () => {
      using folder = scratch();
      const [socket, root] = [join(folder.path, 'unpackd.sock'), join(folder.path, 'store')];
      const [, ...configuration] = proxyConfiguration(program.version, socket, root); // the first is the version
      await using daemon = await Daemon.start(program, { configuration: configuration.join('\n') });
      await daemon.client('here').namespaces.Create({ namespace: { name: 'here' } });
      const look = async (place: string) =>
        byName(await checkProxySnapshotter({ socket: daemon.socket, namespace: 'here' }, socket, place)).get(
          'Proxy snapshotter',
        );
      assert.match((await look(root))?.finding ?? '', / as unpackd, but cannot use it: /);
      const server = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket);
      // containerd connects again after a pause
      const check = await eventually('containerd reaches it', async () => {
        const check = await look(root);
        return check?.status === 'ok' ? check : undefined;
      });
      assert.equal(check.finding, `containerd knows ${socket} as unpackd, and reaches it`);
      const checks = await cliDoctor(
        '--snapshotter-socket',
        socket,
        '--containerd-socket',
        daemon.socket,
        '--root',
        root,
      );
      assert.equal(checks.get('Proxy snapshotter')?.finding, check.finding);
      assert.equal(await server.stop(), 0, server.log);
    });
  });

  describe(`the doctor checks the CRI of containerd ${program.version}`, { skip: skipWithoutContainers() }, () => {
    const lookAtKubelet = async (snapshotter: string) => {
      // 2.x ignores the former place
      const place = program.version.startsWith('1.')
        ? 'io.containerd.grpc.v1.cri".containerd'
        : 'io.containerd.cri.v1.images"';
      const configuration = `[plugins."${place}]\nsnapshotter = "${snapshotter}"`;
      await using daemon = await Daemon.start(program, { containers: { pauseImage: 'none' }, configuration });
      await new Cri(daemon).ready();
      const checks = byName(await checkContainerd({ socket: daemon.socket, namespace: 'k8s.io' }, 'overlayfs'));
      return checks.get('Kubernetes');
    };

    test('the kubelet uses the same snapshotter', async () => {
      const check = await lookAtKubelet('overlayfs');
      // Debian 12 has 1.6.20, whose CRI does not know pinned images
      const old = program.version.startsWith('1.6.20');
      assert.equal(check?.status, old ? 'warn' : 'ok');
      assert.match(
        check?.finding ?? '',
        old ? /1\.6\.20\S* does not know pinned images$/ : /^the kubelet uses this snap/,
      );
    });

    test('the kubelet uses another snapshotter', async () => {
      const check = await lookAtKubelet('native');
      assert.equal(check?.status, 'fail');
      assert.match(check?.finding ?? '', /^the kubelet's images are in \S+native, and those of unpackd .*overlayfs$/);
    });
  });
}

/** What `unpackd doctor` finds. */
async function cliDoctor(...flags: readonly string[]): Promise<Map<string, Check>> {
  const { stdout } = await runCli(['doctor', '--json', ...flags]);
  const { checks }: { readonly checks: readonly Check[] } = JSON.parse(stdout);
  return byName(checks);
}

/** The checks of a process in another mount namespace. */
async function checksIn(pid: number, socket: string): Promise<Map<string, Check>> {
  const program = `
    import { checkContainerd } from ${JSON.stringify(join(import.meta.dirname, '../../src/doctor/containerd.ts'))};
    console.log(JSON.stringify(await checkContainerd({ socket: ${JSON.stringify(socket)}, namespace: 'here' }, 'overlayfs')));
  `;
  const arguments_ = ['--target', String(pid), '--mount', process.execPath, '--input-type=module', '--eval', program];
  const text = await outputOf('nsenter', arguments_);
  const checks: readonly Check[] = JSON.parse(text);
  return byName(checks);
}

/** Lets containerd read its configuration with these lines, and print all of it. */
async function assertUnderstood({ path }: ContainerdProgram, lines: readonly string[]): Promise<void> {
  using folder = scratch();
  const file = join(folder.path, 'config.toml');
  writeFileSync(file, `${lines.join('\n')}\n`);
  const dump = await outputOf(path, ['--config', file, 'config', 'dump']);
  assert.match(dump, /proxy_plugins\.unpackd\]\s+(type = .*\s+)?address = ['"]\/run\/unpackd\/snapshotter\.sock['"]/);
  // each of: CRI, and the transfer service where there is one
  const used = dump.match(/^ *snapshotter = ['"]unpackd['"]/gm) ?? [];
  assert.equal(used.length, lines.filter((line) => line === '  snapshotter = "unpackd"').length);
}

async function outputOf(program: string, arguments_: readonly string[]): Promise<string> {
  const child = startChild(program, arguments_, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout?.on('data', (piece: Buffer) => {
    output += piece.toString();
  });
  await new Promise((resolve) => child.once('close', resolve));
  return output;
}
