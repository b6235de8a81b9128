/** One mount to make, as mount(8) takes it. */
export interface MountRequest {
  readonly type: 'bind' | 'overlay';
  readonly source: string;
  readonly options: readonly string[];
}
