import { Command, Option } from 'commander';
import {
  type Config,
  loadConfig,
  SECRET_SETTINGS,
  SETTINGS,
  type SettingName,
  settingProblem,
  shownValue,
} from '../config.ts';
import { readRedisUrl } from '../redis-address.ts';
import { CliError } from './explain-error.ts';
import type { Cli } from './output.ts';
import { type Cell, table } from './table.ts';

/**
 * Groups of settings that commands take, besides QUEUE_SETTINGS. Each setting is a flag, too, except secrets, because a list of
 * processes shows flags.
 */
export const STORE_SETTINGS = [
  'UNPACK_ROOT',
  'UNPACK_SNAPSHOTTER',
  'UNPACK_CONTAINERD_SOCKET',
  'UNPACK_CONTAINERD_NAMESPACE',
  'UNPACK_CONTAINERD_SNAPSHOTTER',
] as const;
export const S3_SETTINGS = [
  'S3_ENDPOINT',
  'S3_FORCE_PATH_STYLE',
  'UNPACK_S3_ENDPOINTS',
  'UNPACK_S3_REQUESTER_PAYS',
  'AWS_CA_BUNDLE',
  'AWS_REGION',
  'AWS_DEFAULT_REGION',
  'UNPACK_S3_CONNECT_TIMEOUT',
  'UNPACK_S3_IDLE_TIMEOUT',
  'UNPACK_S3_RESUMES',
  'UNPACK_S3_MIN_SPEED',
  'UNPACK_S3_MIN_SPEED_TIME',
] as const;
export const APPLY_SETTINGS = [
  'UNPACK_THREADS',
  'UNPACK_OWNERSHIP',
  'UNPACK_DURABLE',
  'UNPACK_NATIVE_INFLATE',
  'UNPACK_MAX_LAYER_BYTES',
  'UNPACK_MAX_LAYER_ENTRIES',
  'UNPACK_MAX_ENTRY_METADATA',
  'UNPACK_MAX_LAYER_MEMORY',
] as const;
export const COLLECTOR_SETTINGS = ['UNPACK_GC_LOW', 'UNPACK_GC_HIGH'] as const;
export const HEALTH_SETTINGS = ['UNPACK_HEALTH_HOST', 'UNPACK_HEALTH_PORT'] as const;
export const LOG_SETTINGS = ['UNPACK_LOG_LEVEL', 'UNPACK_LOG_FORMAT'] as const;

/** Defaults that depend on the machine, in words for the documentation. */
const FALLBACK_IN_WORDS: Partial<Record<SettingName, string>> = {
  UNPACK_THREADS: 'number of processors, at least 2',
  UNPACK_WORKER_NAME: 'host:pid',
};

/** The flag of a setting: `--s3-resumes` for `UNPACK_S3_RESUMES`, `--redis-url` for `REDIS_URL`. */
export function flagOf(name: SettingName): string {
  return `--${name
    .replace(/^UNPACK_/, '')
    .toLowerCase()
    .replaceAll('_', '-')}`;
}

/** Adds an option for each setting, which is checked when it is parsed. The help names the environment variable. */
export function takesSettings(command: Command, names: readonly SettingName[]): Command {
  for (const name of names.filter((name) => !SECRET_SETTINGS.includes(name))) {
    const { help } = SETTINGS[name];
    const option = new Option(`${flagOf(name)} <value>`, `${help} (${name}${defaultOf(name)})`);
    option.helpGroup('Settings (a flag overrides the environment variable):').argParser((text: string) => {
      const problem = flagProblem(name, text);
      // not commander's InvalidArgumentError, which quotes the value, even a secret
      if (problem !== undefined) throw new CliError('USAGE', problem);
      return text;
    });
    command.addOption(option);
  }
  const hidden = names.filter((name) => SECRET_SETTINGS.includes(name));
  for (const name of hidden) command.addHelpText('after', `\n${name}: ${SETTINGS[name].help} (environment only)`);
  if (names.includes('S3_ENDPOINT')) {
    command.addHelpText(
      'after',
      '\nS3 credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or any other source that the AWS SDK tries.',
    );
  }
  return command;
}

function flagProblem(name: SettingName, text: string): string | undefined {
  if (name === 'REDIS_URL' && text.includes('@')) {
    const address = readRedisUrl(text);
    if (typeof address === 'string' || address.password !== undefined) {
      return `${flagOf(name)} takes no password, because every user of this machine can see it in the list of processes: set REDIS_URL in the environment, or write the password to a file and name it in REDIS_PASSWORD_FILE`;
    }
  }
  return settingProblem(name, text, flagOf(name));
}

/** The settings from the flags of a command, the environment and the defaults. @throws ConfigError */
export function configOf(command: Command): Config {
  return loadConfig(flagsOf(command));
}

function flagsOf(command: Command): Partial<Record<SettingName, string>> {
  const options: Readonly<Record<string, unknown>> = command.opts();
  const flags: Partial<Record<SettingName, string>> = {};
  for (const name of settingNames()) {
    const option = command.options.find((option) => option.long === flagOf(name));
    const value = option === undefined ? undefined : options[option.attributeName()];
    if (typeof value === 'string') flags[name] = value;
  }
  return flags;
}

/** `unpackd settings`: lists the value of every setting and where it comes from. */
export function settingsCommand({ out }: Cli): Command {
  const command = new Command('settings')
    .description(
      'Lists every setting with its value and where the value comes from: a flag, the environment, or the default.\n' +
        'Secrets are not shown.',
    )
    .option('--json', 'print one JSON document')
    .option('--markdown', 'print the table of docs/operations.md')
    .action((options: { readonly markdown?: true }) => {
      if (options.markdown) return void out.line(settingsTable().trimEnd());
      const flags = flagsOf(command);
      loadConfig(flags); // reports wrong values as every command does
      const settings = settingNames().map((name) => ({ name, ...sourced(name, flags[name]) }));
      out.result({ settings }, () => {
        const rows = settings.map(({ name, value, from }): Cell[] => [
          name,
          value ?? '',
          from === 'default' ? '' : from,
          SETTINGS[name].help,
        ]);
        return table(['NAME', 'VALUE', 'FROM', 'MEANING'], rows);
      });
    });
  return takesSettings(command, settingNames());
}

/** The value of a setting, with secrets masked, and where it comes from. */
function sourced(name: SettingName, flag: string | undefined) {
  const variable = process.env[name] ?? '';
  const given = flag ?? (variable === '' ? undefined : variable);
  const value = given ?? SETTINGS[name].fallback;
  const from = flag !== undefined ? 'flag' : given !== undefined ? 'environment' : 'default';
  return { value: value === undefined ? null : (shownValue(name, value) ?? '(set)'), from };
}

/** Every setting as a Markdown table. It is the same on every machine. */
export function settingsTable(): string {
  const rows = settingNames().map((name) => {
    const { help, fallback } = SETTINGS[name];
    const value = FALLBACK_IN_WORDS[name] ?? (fallback === undefined || fallback === '' ? '' : `\`${fallback}\``);
    return `| \`${name}\` | ${help} | ${value} |`;
  });
  return `${['| Setting | Meaning | Default |', '|---|---|---|', ...rows].join('\n')}\n`;
}

function settingNames(): SettingName[] {
  return Object.keys(SETTINGS) as SettingName[]; // the keys of an object literal are its type's
}

function defaultOf(name: SettingName): string {
  const words = FALLBACK_IN_WORDS[name] ?? SETTINGS[name].fallback;
  return words === undefined || words === '' ? '' : `; default ${words}`;
}
