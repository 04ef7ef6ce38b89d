/**
 * A Dockerfile as a list of stages: as much of its grammar as ours uses (no here-documents, no variables, no parser directives).
 */

export interface Instruction {
  readonly line: number;
  /** Upper case. */
  readonly name: string;
  readonly flags: Readonly<Record<string, string>>;
  /** The words after the flags; those of the exec form without quotes. */
  readonly words: readonly string[];
  readonly isExecForm: boolean;
}

export interface Stage {
  readonly image: string;
  readonly name: string | undefined;
  readonly instructions: readonly Instruction[];
}

const known = new Set(['FROM', 'WORKDIR', 'COPY', 'RUN', 'ENV', 'USER', 'ENTRYPOINT', 'CMD', 'EXPOSE', 'LABEL', 'ARG']);

function parseLine(text: string, line: number): Instruction {
  const [, name = '', rest = ''] = /^\s*(\S+)\s*(.*)$/.exec(text) ?? [];
  if (!known.has(name.toUpperCase()))
    throw new Error(`Dockerfile:${line}: "${name}" is no instruction that this parser knows`);
  const flags: Record<string, string> = {};
  let left = rest.trim();
  for (let match = /^--([a-z-]+)(?:=(\S+))?\s+/.exec(left); match; match = /^--([a-z-]+)(?:=(\S+))?\s+/.exec(left)) {
    flags[match[1] ?? ''] = match[2] ?? '';
    left = left.slice(match[0].length);
  }
  const isExecForm = left.startsWith('[');
  const words = isExecForm ? (JSON.parse(left) as string[]) : left.split(/\s+/).filter(Boolean);
  return { line, name: name.toUpperCase(), flags, words, isExecForm };
}

/** @throws Error that names the line. */
export function parseDockerfile(text: string): Stage[] {
  const stages: { image: string; name: string | undefined; instructions: Instruction[] }[] = [];
  const lines = text.split('\n');
  for (let index = 0; index < lines.length; index++) {
    const start = index;
    let logical = lines[index] ?? '';
    if (/^\s*(#|$)/.test(logical)) continue;
    while (logical.endsWith('\\')) logical = `${logical.slice(0, -1)} ${lines[++index] ?? ''}`;
    const instruction = parseLine(logical, start + 1);
    if (instruction.name === 'FROM') {
      const [image = '', as, name] = instruction.words;
      stages.push({ image, name: as?.toUpperCase() === 'AS' ? name : undefined, instructions: [] });
    } else {
      const stage = stages.at(-1);
      if (stage === undefined)
        throw new Error(`Dockerfile:${start + 1}: ${instruction.name} stands before the first FROM`);
      stage.instructions.push(instruction);
    }
  }
  return stages;
}
