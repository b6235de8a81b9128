import { Command } from 'commander';
import { collectorMarks, s3Connection } from '../config.ts';
import type { Check } from '../doctor/check.ts';
import { EXIT_FAILED } from './explain-error.ts';
import type { Cli, Output } from './output.ts';
import { COLLECTOR_SETTINGS, configOf, S3_SETTINGS, STORE_SETTINGS, takesSettings } from './settings.ts';

/** `unpackd doctor`: runs the checks of `src/doctor` and prints what they find. */
export function doctorCommand({ out }: Cli): Command {
  const command = new Command('doctor')
    .description(
      'Checks everything that a worker on this machine depends on, and says how to repair what is wrong. It writes nothing but ' +
        'a temporary folder where a new store would be, and two keys in Redis that expire after a second.\nExit status: 0 if no check failed (warnings are possible), else 1.',
    )
    .option('--bucket <name...>', 'buckets to check (default: those in UNPACK_BUCKETS)')
    .option('--json', 'print one JSON document')
    .action(async (options: { readonly bucket?: readonly string[] }) => {
      const config = configOf(command);
      const { UNPACK_SNAPSHOTTER: type } = config;
      const { checkRuntime } = await import('../doctor/runtime.ts');
      const { checkRedis } = await import('../doctor/redis.ts');
      const { checkQueue } = await import('../doctor/queue.ts');
      const { checkS3 } = await import('../doctor/s3.ts');
      const { checkStore } = await import('../doctor/store.ts');
      const { checkCollector } = await import('../doctor/collector.ts');
      const parts = await Promise.all([
        checkRuntime(config.UNPACK_OWNERSHIP, config.UNPACK_NATIVE_INFLATE),
        checkRedis(config).then(async (checks) =>
          checks.some(({ name, status }) => name === 'Redis' && status === 'fail')
            ? checks
            : [...checks, ...(await checkQueue(config))],
        ),
        checkS3(s3Connection(config), options.bucket ?? config.UNPACK_BUCKETS),
        type === 'containerd' ? [] : checkStore(config.UNPACK_ROOT, type, config.UNPACK_OWNERSHIP),
        checkCollector(config.UNPACK_ROOT, collectorMarks(config)),
      ]);
      const checks = parts.flat();
      const failed = checks.some(({ status }) => status === 'fail');
      out.result({ ok: !failed, checks }, () => checks.flatMap((check) => lines(check, out)));
      if (failed) process.exitCode = EXIT_FAILED;
    });
  takesSettings(command, [
    'REDIS_URL',
    'REDIS_PASSWORD_FILE',
    'UNPACK_QUEUE',
    'UNPACK_REDIS_PREFIX',
    ...STORE_SETTINGS,
    ...COLLECTOR_SETTINGS,
    'UNPACK_OWNERSHIP',
    'UNPACK_NATIVE_INFLATE',
    ...S3_SETTINGS,
  ]);
  command.addHelpText('after', '\nExamples:\n  unpackd doctor --bucket images\n  unpackd doctor --json | jq .checks');
  return command;
}

function lines({ name, status, finding, advice, lines: toCopy = [] }: Check, out: Output): string[] {
  const mark = { ok: out.green('ok  '), warn: out.yellow('warn'), fail: out.red('FAIL') }[status];
  const line = `${mark}  ${name}: ${finding}`;
  return advice === undefined ? [line] : [line, `      → ${advice}`, ...toCopy.map((text) => `        ${text}`)];
}
