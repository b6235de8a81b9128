/**
 * Makes TypeScript types from JSON Schemas, so that a field has one description, which is documentation in both. `dev/schemas.ts`
 * calls it. It knows the keywords that zod writes for the formats of jobs, and fails on any other.
 */

/** The keywords of a JSON Schema that a type depends on. */
interface Schema {
  readonly title?: string;
  readonly description?: string;
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: Schema | boolean;
  readonly items?: Schema;
  readonly prefixItems?: readonly Schema[];
}

/** The name of a type, its description and its schema. */
export interface Format {
  readonly name: string;
  readonly about: string;
  readonly schema: object;
}

/** Maximum number of characters of a line of a comment, without its marks. */
const WIDTH = 115;

/** The exported interfaces of some formats, as the text of a module. @throws Error for a keyword that it does not know */
export function formatTypes(formats: readonly Format[]): string {
  const names = new Map(formats.map(({ name, schema }) => [shapeOf(schema), name]));
  return formats
    .map(({ name, about, schema }) => {
      const others = new Map([...names].filter(([, other]) => other !== name));
      return `${comment(about, '')}export interface ${name} ${objectOf(schema, others, '')}\n`;
    })
    .join('\n');
}

/** A part of a format that has the shape of another format gets its name. */
function typeOf(schema: Schema, names: ReadonlyMap<string, string>, indent: string): string {
  const name = names.get(shapeOf(schema));
  if (name !== undefined) return name;
  if ('const' in schema) return literal(schema.const);
  if (schema.enum !== undefined) return union(schema.enum.map(literal));
  if (schema.anyOf !== undefined) return union(schema.anyOf.map((one) => typeOf(one, names, indent)));
  if (schema.prefixItems !== undefined) {
    return `readonly [${schema.prefixItems.map((item) => typeOf(item, names, indent)).join(', ')}]`;
  }
  switch (schema.type) {
    case 'string':
    case 'boolean':
      return schema.type;
    case 'number':
    case 'integer':
      return 'number';
    case 'array':
      return arrayOf(typeOf(schema.items ?? fail(schema), names, indent));
    case 'object':
      return schema.properties === undefined ? recordOf(schema, names, indent) : objectOf(schema, names, indent);
    default:
      return fail(schema);
  }
}

function objectOf({ properties = {}, required = [] }: Schema, names: ReadonlyMap<string, string>, indent: string) {
  const inner = `${indent}  `;
  const fields = Object.entries(properties).map(([name, schema]) => {
    const type = typeOf(schema, names, inner);
    // producers may pass `undefined` for a field that they leave out
    const field = required.includes(name) ? `${name}: ${type}` : `${name}?: ${type} | undefined`;
    return `${comment(schema.description, inner)}${inner}readonly ${field};\n`;
  });
  return `{\n${fields.join('')}${indent}}`;
}

function recordOf(
  { additionalProperties: values }: Schema,
  names: ReadonlyMap<string, string>,
  indent: string,
): string {
  if (typeof values !== 'object') return fail({ additionalProperties: values ?? true });
  return `Readonly<Record<string, ${typeOf(values, names, indent)}>>`;
}

function literal(value: unknown): string {
  return typeof value === 'string'
    ? `'${JSON.stringify(value).slice(1, -1).replaceAll("'", "\\'")}'`
    : JSON.stringify(value);
}

function arrayOf(item: string): string {
  const isOne = item.startsWith('{') || !/ \| |^readonly /.test(item);
  return isOne ? `readonly ${item}[]` : `readonly (${item})[]`;
}

function union(types: readonly string[]): string {
  return types.join(' | ');
}

/** A comment of one line, or of several if it would be too wide. */
function comment(text: string | undefined, indent: string): string {
  if (text === undefined) return '';
  const words = text.replaceAll('*/', '*\\/').split(' ');
  const lines: string[] = [];
  for (const word of words) {
    const longer = lines.length === 0 ? word : `${lines.at(-1)} ${word}`;
    if (lines.length === 0 || indent.length + longer.length > WIDTH) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}\n`).join('')}${indent} */\n`;
}

/** The schema without what only describes it. */
function shapeOf(schema: object): string {
  return JSON.stringify(schema, (key, value) =>
    ['title', 'description', '$id', '$schema', 'examples'].includes(key) ? undefined : value,
  );
}

function fail(schema: Schema): never {
  throw new Error(`no type is known for the JSON Schema ${JSON.stringify(schema)}`);
}
