/**
 * Reads what came over the agents' wire, for both ends: bounded, and validated against protocol.v1.schema.json.
 *
 * Invariants:
 * 1. A value that leaves here has the type it says; everything else is a ProtocolViolation with a sentence for people.
 * 2. Validators are compiled at first use, once a process, one for each kind of line and verb: a line is checked against its
 *    own schema alone.
 */
import { Ajv, type ValidateFunction } from 'ajv';
import type { Instruction, InstructionBatch, InstructionBatchResult, Line, NodeName } from './protocol.generated.ts';
import schema from './protocol.v1.schema.json' with { type: 'json' };

/** Bytes of a line of the stream of observations, without its end. A node of 64 disks and 32 ports has 30 KiB. */
export const longestLineBytes = 256 * 1024;
/** Bytes of a request of instructions. */
export const largestBatchBytes = 16 * 1024 * 1024;
/** Bytes of an answer to it: 1,024 results with messages of 1,024 characters of up to 3 bytes. */
export const largestAnswerBytes = 4 * 1024 * 1024;

export class ProtocolViolation extends Error {
  override readonly name = 'ProtocolViolation';
}

type DefinitionName = keyof typeof schema.$defs;

const lineDefinitions: Readonly<Record<Line['type'], DefinitionName>> = {
  hello: 'Hello',
  node: 'NodeLine',
  gone: 'Gone',
  synced: 'Synced',
  alive: 'Alive',
};

const instructionDefinitions: Readonly<Record<Instruction['verb'], DefinitionName>> = {
  isolate: 'Isolate',
  reimage: 'Reimage',
  devirtualize: 'Devirtualize',
  drain: 'Drain',
  fence: 'Fence',
  power: 'PowerInstruction',
  attest: 'Attest',
  wipe: 'Wipe',
  check: 'Check',
  inspect: 'Inspect',
  throttle: 'Throttle',
};

let ajv: Ajv | undefined;
const validators = new Map<DefinitionName, ValidateFunction>();

function validatorOf(name: DefinitionName): ValidateFunction {
  const known = validators.get(name);
  if (known !== undefined) return known;
  // Lengths are counted in UTF-16 units: exact for what people write, and several times faster.
  ajv ??= new Ajv({ strict: false, unicodeRegExp: false }).addSchema(schema);
  const compiled = ajv.compile({ $ref: `${schema.$id}#/$defs/${name}` });
  validators.set(name, compiled);
  return compiled;
}

function check(name: DefinitionName, value: unknown, what: string): void {
  const validate = validatorOf(name);
  if (validate(value)) return;
  const [first] = validate.errors ?? [];
  const where = (first?.instancePath ?? '') || 'the whole';
  const extra = first?.keyword === 'additionalProperties' ? ` (${first.params.additionalProperty})` : '';
  throw new ProtocolViolation(`${what}: ${where} ${first?.message ?? 'is not valid'}${extra}`.slice(0, 500));
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function parse(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ProtocolViolation(`${what} is not JSON: ${JSON.stringify(text.slice(0, 40))}`);
  }
}

function own<T>(table: Readonly<Record<string, T>>, key: unknown): T | undefined {
  return typeof key === 'string' && Object.hasOwn(table, key) ? table[key] : undefined;
}

/** @throws ProtocolViolation */
export function parseLine(text: string): Line {
  const value = parse(text, 'a line');
  const definition = isRecord(value) ? own(lineDefinitions, value.type) : undefined;
  if (definition === undefined)
    throw new ProtocolViolation('a line has none of the types hello, node, gone, synced, alive');
  check(definition, value, `a line of type ${(value as Line).type}`);
  return value as Line;
}

/** An instruction of a batch that is refused as Invalid by itself, without harm to the others. */
export interface InvalidInstruction {
  readonly operationId: string;
  readonly node: NodeName;
  readonly message: string;
}

export interface ReadBatch {
  readonly term: number;
  /** In the order of the batch. */
  readonly entries: readonly (
    | { readonly instruction: Instruction; readonly invalid?: undefined }
    | { readonly invalid: InvalidInstruction }
  )[];
}

/**
 * A batch whose shell is valid; each instruction is judged by itself.
 * @throws ProtocolViolation when the shell is not valid, or an instruction cannot even be named in an answer
 */
export function readBatch(text: string): ReadBatch {
  const value = parse(text, 'the body');
  const instructions = isRecord(value) ? value.instructions : undefined;
  if (!isRecord(value) || !Array.isArray(instructions)) throw new ProtocolViolation('the body is no InstructionBatch');
  check('InstructionBatch', { ...value, instructions: [] }, 'the batch');
  const { maxItems } = schema.$defs.InstructionBatch.properties.instructions;
  if (instructions.length > maxItems) {
    throw new ProtocolViolation(`the batch has ${instructions.length} instructions; ${maxItems} are allowed`);
  }
  return { term: (value as { term: number }).term, entries: instructions.map(readInstruction) };
}

function readInstruction(value: unknown, index: number): ReadBatch['entries'][number] {
  const what = `instruction ${index}`;
  if (!isRecord(value)) throw new ProtocolViolation(`${what} is not an object`);
  const { operationId, node } = value;
  // An answer names them, so they must be what an answer may hold.
  check('InstructionResult', { operationId, node, result: 'Refused' }, what);
  const definition = own(instructionDefinitions, value.verb);
  const named = { operationId: String(operationId), node: String(node) };
  if (definition === undefined)
    return { invalid: { ...named, message: `unknown verb ${JSON.stringify(value.verb)?.slice(0, 80)}` } };
  try {
    check(definition, value, `the instruction ${String(value.verb)}`);
    return { instruction: value as unknown as Instruction };
  } catch (error) {
    if (!(error instanceof ProtocolViolation)) throw error;
    return { invalid: { ...named, message: error.message } };
  }
}

/**
 * The answer to a batch: one result for each instruction, in order.
 * @throws ProtocolViolation
 */
export function parseBatchResult(text: string, asked: InstructionBatch): InstructionBatchResult {
  const value = parse(text, 'the answer');
  check('InstructionBatchResult', value, 'the answer');
  const answer = value as InstructionBatchResult;
  const fits =
    answer.results.length === asked.instructions.length &&
    answer.results.every((result, index) => {
      const instruction = asked.instructions[index];
      return result.operationId === instruction?.operationId && result.node === instruction.node;
    });
  if (!fits) throw new ProtocolViolation('the answer does not match the instructions one by one');
  return answer;
}
