import { Command } from 'commander';
import type { Cli } from './output.ts';
import { configOf, QUEUE_SETTINGS, takesSettings } from './settings.ts';

/** `unpackd cancel`. */
export function cancelCommand({ out }: Cli): Command {
  const command = new Command('cancel')
    .description(
      'Asks for the end of a job, waiting or running; it then fails with CANCELLED. What is unpacked by then stays.',
    )
    .argument('<job>', 'its ID, as enqueue has told it')
    .option('--reason <text>', 'for the job’s failure')
    .option('--json', 'one JSON document')
    .addHelpText('after', '\nExample:\n  unpackd cancel 3f1c… --reason "wrong tag"');
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (id: string, { reason }: { readonly reason?: string }) => {
    const config = configOf(command);
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      const cancelled = await queue.cancel(id, reason);
      out.result({ id, cancelled }, () => [cancelled ? `job ${id} will end` : `job ${id} had ended already`]);
    } finally {
      await queue.close();
    }
  });
}
