import { Command } from 'commander';
import { type Config, collectorMarks, QUEUE_SETTINGS } from '../config.ts';
import type { Check } from '../doctor/check.ts';
import { s3Connections } from '../s3-settings.ts';
import { EXIT_FAILED } from './explain-error.ts';
import type { Cli, Output } from './output.ts';
import { COLLECTOR_SETTINGS, configOf, S3_SETTINGS, STORE_SETTINGS, takesSettings } from './settings.ts';

/** `unpackd doctor`: runs the checks of `src/doctor` and prints what they find. */
export function doctorCommand({ out }: Cli): Command {
  const command = new Command('doctor')
    .description(
      'Checks everything that a worker on this machine depends on, and says how to repair what is wrong. It writes nothing but ' +
        'a temporary folder where a new store would be, two keys in Redis that expire after a second, and an empty snapshot in ' +
        'containerd, if a setting names one, which it removes.\nExit status: 0 if no check failed (warnings are possible), else 1.',
    )
    .option('--bucket <name...>', 'buckets to check (default: those in UNPACK_BUCKETS)')
    .option('--json', 'print one JSON document')
    .action(async (options: { readonly bucket?: readonly string[] }) => {
      const config = configOf(command);
      const { checkRuntime } = await import('../doctor/runtime.ts');
      const { checkRedis } = await import('../doctor/redis.ts');
      const { checkQueue } = await import('../doctor/queue.ts');
      const { checkS3 } = await import('../doctor/s3.ts');
      const parts = await Promise.all([
        checkRuntime(config.UNPACK_OWNERSHIP, config.UNPACK_NATIVE_INFLATE),
        checkRedis(config).then(async (checks) =>
          checks.some(({ name, status }) => name === 'Redis' && status === 'fail')
            ? checks
            : [...checks, ...(await checkQueue(config))],
        ),
        checkS3(s3Connections(config), options.bucket ?? config.UNPACK_BUCKETS),
        storeChecks(config),
      ]);
      const checks = parts.flat();
      const failed = checks.some(({ status }) => status === 'fail');
      out.result({ ok: !failed, checks }, () => checks.flatMap((check) => lines(check, out)));
      if (failed) process.exitCode = EXIT_FAILED;
    });
  takesSettings(command, [
    ...QUEUE_SETTINGS.filter((name) => name !== 'UNPACK_JOB'),
    ...STORE_SETTINGS,
    ...COLLECTOR_SETTINGS,
    'UNPACK_SNAPSHOTTER_SOCKET',
    'UNPACK_OWNERSHIP',
    'UNPACK_NATIVE_INFLATE',
    ...S3_SETTINGS,
  ]);
  command.addHelpText(
    'after',
    '\nExamples:\n  unpackd doctor --bucket images\n  unpackd doctor --snapshotter containerd\n  unpackd doctor --json | jq .checks',
  );
  return command;
}

async function storeChecks(config: Config): Promise<readonly Check[]> {
  const { UNPACK_ROOT: root, UNPACK_SNAPSHOTTER: type, UNPACK_SNAPSHOTTER_SOCKET: served } = config;
  const { UNPACK_CONTAINERD_SOCKET: socket, UNPACK_CONTAINERD_NAMESPACE: namespace } = config;
  const marks = collectorMarks(config);
  if (type === 'containerd') {
    const { checkContainerd, checkCollection, checkState } = await import('../doctor/containerd.ts');
    const checks = await checkContainerd({ socket, namespace }, config.UNPACK_CONTAINERD_SNAPSHOTTER);
    return [...checks, await checkState(root), checkCollection(marks)];
  }
  const { checkStore } = await import('../doctor/store.ts');
  const { checkCollector } = await import('../doctor/collector.ts');
  const checks = [...(await checkStore(root, type, config.UNPACK_OWNERSHIP)), await checkCollector(root, marks)];
  if (served === undefined) return checks;
  const { checkProxySnapshotter } = await import('../doctor/proxy-snapshotter.ts');
  return [...checks, ...(await checkProxySnapshotter({ socket, namespace }, served, root))];
}

function lines({ name, status, finding, advice, lines: toCopy = [] }: Check, out: Output): string[] {
  const mark = { ok: out.green('ok  '), warn: out.yellow('warn'), fail: out.red('FAIL') }[status];
  const line = `${mark}  ${name}: ${finding}`;
  return advice === undefined ? [line] : [line, `      → ${advice}`, ...toCopy.map((text) => `        ${text}`)];
}
