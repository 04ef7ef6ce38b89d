/**
 * `bitvisor-operator validate PATH...`: the check of a pre-commit hook. Reads files, writes nothing, needs no server.
 */
import { formatProblem } from '../gitops/problems.ts';
import { readCrds, validatePaths } from '../gitops/validate.ts';

/** @returns the exit code: 1 when anything is an error */
export async function runValidate(
  paths: readonly string[],
  options: { readonly crdDirectory: string; readonly defaultNamespace: string; readonly print: (line: string) => void },
): Promise<number> {
  const { crdDirectory, defaultNamespace, print } = options;
  const { problems, files, objects } = await validatePaths(paths, {
    crds: await readCrds(crdDirectory),
    defaultNamespace,
  });
  for (const problem of problems) print(formatProblem(problem));
  const errors = problems.filter(({ severity }) => severity === 'error').length;
  const warnings = problems.length - errors;
  const found = [
    `${files} ${files === 1 ? 'file' : 'files'}`,
    `${objects} valid ${objects === 1 ? 'object' : 'objects'}`,
    `${errors} ${errors === 1 ? 'error' : 'errors'}`,
    ...(warnings === 0 ? [] : [`${warnings} ${warnings === 1 ? 'warning' : 'warnings'}`]),
  ];
  print(found.join(', '));
  return errors > 0 ? 1 : 0;
}
