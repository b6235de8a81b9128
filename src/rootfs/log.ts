/** Where the work tells an operator, in a sentence, what happened. */
export type Log = (level: 'info' | 'warn', sentence: string, fields?: Readonly<Record<string, unknown>>) => void;
