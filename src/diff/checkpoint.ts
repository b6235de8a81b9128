/**
 * Called between the steps of work that an archive can make long, however it is put together: entries, steps of a path's
 * resolution, names in a tree that is removed, directories that get their times. It throws where the work is to be given
 * up, and must cost next to nothing where it goes on.
 */
export type Checkpoint = () => void;

export const GO_ON: Checkpoint = () => {};
