import type { Library } from '../../src/system/native-code.ts';

/** Libraries that are broken on purpose, for tests of the fallback to Node's public API. */
type NativeFunction = ReturnType<Library['func']>;

/** A library that lacks the function `name`. */
export function libraryWithout(library: Library, name: string): Library {
  return { func: (definition) => library.func(definition.replace(`${name}(`, `${name}_is_missing(`)) };
}

/** A library in which `body` is called instead of the function `name`. */
export function libraryWith(
  library: Library,
  name: string,
  body: (real: NativeFunction, ...parameters: unknown[]) => unknown,
): Library {
  return {
    func(definition) {
      const real = library.func(definition);
      if (!definition.includes(`${name}(`)) return real;
      return Object.assign((...parameters: unknown[]) => body(real, ...parameters), {
        async: real.async,
        info: real.info,
      });
    },
  };
}
