// Prometheus' answers become data frames, as Grafana's data source for Prometheus makes them.

import {
  DataFrame,
  DataTransformerConfig,
  Field,
  FieldType,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import { uniqBy } from 'lodash';
import { lastValueFrom } from 'rxjs';

import { Answer, Series } from './asked';

standardTransformersRegistry.setInit(() =>
  // Two of the names stand for one.
  uniqBy(Object.values(standardTransformers), 'id').map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    editor: () => null,
    transformation,
  }))
);

export async function frames(answers: Answer[], transformations: DataTransformerConfig[] = []): Promise<DataFrame[]> {
  const made = answers.flatMap((answer) => {
    if (answer.series.length === 0) {
      return [];
    }
    return answer.table ? [table(answer, answers.length > 1)] : answer.series.map((series) => one(answer, series));
  });
  const enabled = transformations.filter((transformation) => !transformation.disabled);
  return lastValueFrom(transformDataFrame(enabled, made));
}

function points(series: Series): Array<[number, string]> {
  return series.values ?? (series.value ? [series.value] : []);
}

function time(series: Series[], step: number): Partial<Field> {
  return {
    name: 'Time',
    type: FieldType.time,
    config: { interval: step * 1000 }, // a longer gap is shown as one
    values: series.flatMap(points).map(([at]) => Math.round(at * 1000)),
  };
}

function one(answer: Answer, series: Series): DataFrame {
  const name = legend(answer.legend, series.metric);
  return toDataFrame({
    refId: answer.refId,
    name,
    fields: [
      time([series], answer.step),
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        config: { displayNameFromDS: name },
        // As in Grafana's panel: what is no number is a gap, and no point.
        values: points(series).map(([, value]) => (series.values && value === 'NaN' ? null : number(value))),
      },
    ],
  });
}

function table(answer: Answer, several: boolean): DataFrame {
  const labels = [...new Set(answer.series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const repeated = answer.series.flatMap((series) => points(series).map(() => series.metric));
  return toDataFrame({
    refId: answer.refId,
    fields: [
      time(answer.series, answer.step),
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: { filterable: true },
        values: repeated.map((metric) => metric[label] ?? ''),
      })),
      {
        name: several ? `Value #${answer.refId}` : 'Value',
        type: FieldType.number,
        config: {},
        values: answer.series.flatMap(points).map(([, value]) => number(value)),
      },
    ],
  });
}

function number(text: string): number {
  return text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text);
}

function legend(format: string, metric: Record<string, string>): string {
  if (format && format !== '__auto') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label: string) => metric[label] ?? '');
  }
  const { __name__: name = '', ...labels } = metric;
  const told = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return told.length > 0 ? `${name}{${told.join(', ')}}` : name || 'Value';
}
